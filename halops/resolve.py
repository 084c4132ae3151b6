"""Resolving: from a profile and a dataset's address to a frozen RunSpec, and the bytes it names into the store."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from halops import __version__
from halops.artifact import FileEntry, Manifest, Producer, now, sha256_file
from halops.errors import DataError, NotFoundError
from halops.llamacpp.toolchain import identity
from halops.models.source import fetch_model, pin
from halops.profile import Profile
from halops.runspec import BaseRef, DatasetRef, RunSpec, check_name
from halops.store.artifacts import publish, put_dataset, read_manifest
from halops.store.base import Store
from halops.store.table import open_object


@dataclass(frozen=True)
class Sources:
    """Where the bytes are that a spec names by digest, until they are in the store."""

    rows: Path
    probes: Path | None


def resolve(
    profile: Profile, data: str, *, name: str | None = None, images: dict[str, str] | None = None, scratch: Path
) -> tuple[RunSpec, Sources]:
    """Pin everything that decides the result.

    Args:
        data: path or URI of the JSONL; a remote one is fetched into `scratch`.
        name: the run's name; the profile's by default.

    Raises:
        NotFoundError, DataError, ConfigError, ModelError, StoreUnavailable.
    """
    rows = _local_copy(data, scratch)
    probes = _probes(profile, data, rows, scratch)
    spec = RunSpec(
        name=check_name(name or profile.name),
        profile=profile,
        base=BaseRef(uri=pin(profile.model.uri)),
        dataset=_reference(rows),
        probes=_reference(probes) if probes else None,
        adapter=BaseRef(uri=pin(profile.model.adapter)) if profile.model.adapter else None,
        images=images or {},
        llama_cpp=identity(),
    )
    return spec, Sources(rows, probes)


def upload_sources(store: Store, spec: RunSpec, sources: Sources) -> None:
    """Put the dataset, the probes and a starting adapter into the store; nothing moves if they are there."""
    for path in (sources.rows, sources.probes):
        if path:
            put_dataset(store, path)
    if spec.adapter and read_manifest(store, spec.adapter.prefix) is None:
        _upload_adapter(store, spec, spec.adapter)


def _upload_adapter(store: Store, spec: RunSpec, adapter: BaseRef) -> None:
    """Adapters are small, so the submitter fetches one itself; stages read only the store."""
    started = now()

    def make_manifest(files: tuple[FileEntry, ...]) -> Manifest:
        producer = Producer(stage="adapter", code_version=__version__)
        return Manifest(
            run_id=spec.run_id, attempt="submit", spec_sha256=spec.sha256, producer=producer, inputs={}, files=files,
            started=started, finished=now(),
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as scratch:
        folder = fetch_model(adapter.uri, Path(scratch) / "adapter")
        publish(store, adapter.prefix, "submit", folder, make_manifest=make_manifest)


def _reference(path: Path) -> DatasetRef:
    size = path.stat().st_size
    if size == 0:
        raise DataError("the file is empty", where=str(path), remedy='give JSONL: one {"messages": [...]} a line')
    # Only the name: the same bytes in another folder are the same run.
    return DatasetRef(uri=path.name, sha256=sha256_file(path), size=size)


def _local_copy(address: str, scratch: Path) -> Path:
    scheme, separator, rest = address.partition("://")
    if not separator or scheme == "file":
        path = Path(rest if separator else address).expanduser()
        if not path.is_file():
            raise NotFoundError(f"no data file {path}", remedy="give one with --data FILE or --data s3://bucket/key")
        return path
    store, key = open_object(address)
    data = store.read(key)
    if data is None:
        raise NotFoundError(f"no object {address}", remedy="check the bucket and the key")
    path = Path(tempfile.mkdtemp(dir=scratch)) / Path(key).name
    path.write_bytes(data)
    return path


def _probes(profile: Profile, data: str, rows: Path, scratch: Path) -> Path | None:
    """The probes named by the profile, or probes.jsonl beside a local dataset."""
    wanted = profile.data.probes
    if wanted == "auto":
        beside = rows.with_name("probes.jsonl")
        return beside if "://" not in data and beside.is_file() and beside != rows else None
    return _local_copy(wanted, scratch) if wanted else None

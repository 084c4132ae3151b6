"""Manifests: what a stage leaves behind. A manifest, written last, alone means that a stage is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halops.errors import IntegrityError

MetricValue = float | int | str | None
_SHA256 = r"^[0-9a-f]{64}$"


class Frozen(BaseModel):
    """A value: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Frozen):
    """One stored file.

    `path` is where a reader finds it, relative to the stage's output; `key` is where the store
    holds it, relative to the store's root.
    """

    path: str
    key: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class Producer(Frozen):
    """What made an artifact."""

    stage: str
    code_version: str
    image: str = ""
    llama_cpp: str = ""


class Manifest(Frozen):
    """Every file of a stage's output with size and SHA-256, what made it, and from what.

    `inputs` maps an input's name to the SHA-256 of its own manifest (or of the file, for the
    dataset), so that a chain of manifests is a lineage.
    """

    kind: str = "halops/manifest/v1"
    run_id: str
    attempt: str
    spec_sha256: str
    producer: Producer
    inputs: dict[str, str]
    files: tuple[FileEntry, ...]
    metrics: dict[str, MetricValue] = {}
    started: str
    finished: str

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: what downstream manifests pin."""
        return sha256_bytes(self.to_bytes())

    @property
    def seconds(self) -> float:
        """Wall time of the attempt that made it."""
        return (parse_time(self.finished) - parse_time(self.started)).total_seconds()

    def to_bytes(self) -> bytes:
        """Canonical JSON, as stored."""
        return canonical_json(self.model_dump(mode="json"))

    def file(self, path: str) -> FileEntry:
        """The entry for `path`. Raises IntegrityError if the manifest has none."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise IntegrityError(f"the manifest lists no {path}", where=f"{self.run_id} {self.producer.stage}")

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse a stored manifest. Raises IntegrityError if it is torn or of another kind."""
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                "not a readable manifest", where=where, remedy="delete it; the stage then runs again"
            ) from error
        if manifest.kind != "halops/manifest/v1":
            raise IntegrityError(f"unknown manifest kind {manifest.kind!r}", where=where)
        return manifest


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spare bytes: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, streamed."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(files: Mapping[str, str]) -> str:
    """One digest for a folder: SHA-256 over its sorted (path, digest) pairs."""
    return sha256_bytes(canonical_json(dict(files)))


def walk_files(folder: Path) -> Iterable[tuple[str, Path]]:
    """Every regular file under `folder` as (relative posix path, path), sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def now() -> str:
    """The current time, RFC 3339 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """An RFC 3339 time as an aware datetime."""
    return datetime.fromisoformat(text)

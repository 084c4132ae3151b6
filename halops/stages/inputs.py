"""A step's inputs: which bytes it must see, whether its manifest was made from them, and fetching them."""

from __future__ import annotations

import json
from pathlib import Path

from halops import names
from halops.artifact import Manifest
from halops.errors import ConfigError, IntegrityError, NotFoundError
from halops.plan import Input, Step, make_plan
from halops.progress import Progress
from halops.runspec import DatasetRef, RunSpec
from halops.store.artifacts import fetch, read_manifest
from halops.store.base import Store

ADAPTER = "adapter"


def pinned_inputs(store: Store, spec: RunSpec, step: Step) -> dict[str, str]:
    """Digest of each input: an upstream manifest's, or the dataset's own.

    Raises NotFoundError if an upstream stage isn't done.
    """
    inputs = {}
    for item in step.inputs:
        inputs[item.step] = _upstream(store, spec, item).digest
    if step.stage == "data":
        inputs["dataset"] = spec.dataset.sha256
        if spec.probes:
            inputs["probes"] = spec.probes.sha256
    if step.stage == "train" and spec.adapter:
        inputs[ADAPTER] = _required(store, spec.adapter.prefix, "the starting adapter").digest
    return inputs


def require_expected(inputs: dict[str, str], given: str | None) -> None:
    """Compare the inputs that are there with those that the attempt was made for.

    Args:
        inputs: as `pinned_inputs` finds them.
        given: JSON of what it found when the attempt was made (HALOPS_INPUTS); None skips the comparison.

    Raises IntegrityError naming those that changed meanwhile, ConfigError if `given` is no such JSON.
    """
    if given is None:
        return
    try:
        expected = json.loads(given)
        changed = sorted(name for name in inputs.keys() | expected.keys() if inputs.get(name) != expected.get(name))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"not a JSON object of digests: {given[:80]!r}", where=names.ENV_INPUTS) from error
    if changed:
        told = "; ".join(f"{name} is {_short(inputs.get(name))}, not {_short(expected.get(name))}" for name in changed)
        raise IntegrityError(
            f"{', '.join(changed)} changed since this attempt was made",
            where=told,
            remedy="something else writes to this run's files in the store; `halops resume` starts from what is there",
        )


def _short(digest: str | None) -> str:
    return f"sha256:{digest[:12]}" if digest else "absent"


def current_manifest(store: Store, spec: RunSpec, step: Step, inputs: dict[str, str]) -> Manifest | None:
    """The step's manifest, if it was made for this spec from these inputs and its files are there.

    What is shared by all runs counts for any spec.
    """
    manifest = read_manifest(store, step.prefix)
    if manifest is None or manifest.inputs != inputs:
        return None
    if not step.shared and manifest.spec_sha256 != spec.sha256:
        return None
    missing = any(store.size(entry.key) != entry.size for entry in manifest.files)
    return None if missing else manifest


def fetch_inputs(
    store: Store, spec: RunSpec, step: Step, inputs: dict[str, str], dest: Path, progress: Progress
) -> None:
    """Fill `dest` with the step's inputs, verified against the pinned digests. Raises IntegrityError."""
    for item in step.inputs:
        manifest = _upstream(store, spec, item)
        if manifest.digest != inputs[item.step]:
            raise IntegrityError(f"the manifest of {item.step} changed while {step.stage} began")
        fetch(store, manifest, dest / item.step, only=item.only, progress=progress)
    if step.stage == "data":
        _dataset(store, spec.dataset, dest / "dataset" / "rows.jsonl")
        if spec.probes:
            _dataset(store, spec.probes, dest / "dataset" / "probes.jsonl")
    if ADAPTER in inputs and spec.adapter:
        manifest = _required(store, spec.adapter.prefix, "the starting adapter")
        fetch(store, manifest, dest / ADAPTER, progress=progress)


def _dataset(store: Store, ref: DatasetRef, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    store.download(ref.key, path, ref.sha256, ref.size)


def _upstream(store: Store, spec: RunSpec, item: Input) -> Manifest:
    return _required(store, make_plan(spec).step(item.step).prefix, f"stage {item.step}")


def _required(store: Store, prefix: str, what: str) -> Manifest:
    manifest = read_manifest(store, prefix)
    if manifest is None:
        raise NotFoundError(f"{what} isn't done yet", where=prefix, remedy="run the chain: halops resume RUN")
    return manifest

"""What of a run can be served, read from the store's manifests."""

from __future__ import annotations

from dataclasses import dataclass

from halops.artifact import FileEntry, Manifest
from halops.errors import ConfigError, NotFoundError, VerificationError
from halops.names import FAST_STAGES
from halops.runspec import RunSpec
from halops.runstate import find_run, load_spec, run_manifests, run_status
from halops.store.base import Store


@dataclass(frozen=True)
class Candidate:
    """A run with a file to serve. `unverified` says what verify found; empty for a run that passed.

    With `adapter` it is a GGUF LoRA on top of `file`, the base.
    """

    spec: RunSpec
    file: FileEntry
    manifests: dict[str, Manifest]  # by stage, those that are there
    unverified: str = ""
    adapter: FileEntry | None = None


def find_candidate(store: Store, run: str | None) -> Candidate:
    """The run of that name or id (the last one, if None).

    Raises NotFoundError if there is no such run, or it has no GGUF yet; ConfigError if `serving.file` isn't made.
    """
    run_id = find_run(store, run)
    spec = load_spec(store, run_id)
    manifests = run_manifests(store, spec)
    if "convert" not in manifests:
        raise NotFoundError(
            f"run {run_id} has no GGUF file yet", remedy=f"`halops status {run_id}` says where it stands"
        )
    name = f"{spec.profile.convert.name}-{spec.profile.serving.file}.gguf"
    file = next((entry for entry in manifests["convert"].files if entry.path == name), None)
    if file is None:
        raise ConfigError(f"run {run_id} has no {name}", remedy="serving.file must be one of convert.types")
    return Candidate(spec, file, manifests, "" if "verify" in manifests else _what_failed(store, spec))


def fast_candidate(store: Store, spec: RunSpec) -> Candidate:
    """The adapter on the base, as `fast_steps` made them. Raises NotFoundError if they have not."""
    manifests = run_manifests(store, spec)
    missing = [stage for stage in FAST_STAGES if stage not in manifests]
    if missing:
        raise NotFoundError(f"run {spec.run_id} has no {', '.join(missing)} yet", remedy="halops deploy --fast")
    (base,), (adapter,) = (manifests[stage].files for stage in FAST_STAGES)
    kept = {stage: manifests[stage] for stage in ("base", "data", "train", *FAST_STAGES)}
    return Candidate(spec, base, kept, "its adapter on the quantized base, which verify doesn't judge", adapter)


def _what_failed(store: Store, spec: RunSpec) -> str:
    stages = {stage.name: stage for stage in run_status(store, spec, alive=False).stages}
    return stages["verify"].diagnosis or "verify has not passed"


def require_verified(candidate: Candidate, force: bool) -> None:
    """Raises VerificationError, with what verify found, unless the run passed it or `force` is set."""
    if candidate.unverified and not force:
        raise VerificationError(
            f"run {candidate.spec.run_id} is not verified: {candidate.unverified}",
            remedy="correct that and submit again; --force serves it all the same, marked as unverified",
        )

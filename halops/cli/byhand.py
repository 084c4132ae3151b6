"""Running one stage by hand: explicit folders, or else those of a run."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halops.cli.common import Place, note
from halops.cli.live import ChainView
from halops.errors import HostError, NotFoundError
from halops.progress import Progress
from halops.runspec import RunSpec
from halops.stages.context import Checkpoints, Metrics, StageContext

if TYPE_CHECKING:
    from halops.artifact import Manifest

EXPLICIT_DIGEST = "0" * 64  # of a dataset that plays no part in a stage run by hand


def fetched(where: Place, run_id: str, stage: str, only: tuple[str, ...] = ()) -> Path:
    """A stage's verified output as a local folder. Raises NotFoundError if the stage isn't done."""
    from halops.plan import make_plan
    from halops.runstate import load_spec
    from halops.store.artifacts import fetch, read_manifest

    prefix = make_plan(load_spec(where.store, run_id)).step(stage).prefix
    manifest: Manifest | None = read_manifest(where.store, prefix)
    if manifest is None:
        raise NotFoundError(
            f"stage {stage} of {run_id} isn't done", remedy=f"halops resume {run_id} --wait, or give the paths"
        )
    folder = where.state / "local" / run_id / "fetched" / stage
    fetch(where.store, manifest, folder, only=only, progress=Progress())
    return folder


def existing(path: Path, what: str) -> Path:
    """A path that must be there. Raises NotFoundError."""
    if not path.exists():
        raise NotFoundError(f"no {what} at {path}", remedy="check the path")
    return path.resolve()


def run_stage(
    stage: str, spec: RunSpec, inputs: Mapping[str, Path], output: Path, checkpoints: Checkpoints | None = None
) -> Metrics:
    """Run one stage in this process, from folders to a folder that must not be there yet.

    The output appears under its name only when the stage is done. Ctrl-C and SIGTERM let training save first.
    """
    from halops.stages.harness import load_stage

    if output.exists() and any(output.iterdir()):
        raise HostError(f"{output} exists and isn't empty", remedy="remove it, or choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        with ChainView() as view:
            context = _context(spec, inputs, work, checkpoints, view, stage)
            view.on_event(stage, {"kind": "started"})
            metrics = load_stage(stage)(context)
            view.on_event(stage, {"kind": "succeeded"})
        if output.exists():
            output.rmdir()
        (work / "output").rename(output)
        return metrics
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _context(
    spec: RunSpec, inputs: Mapping[str, Path], work: Path, checkpoints: Checkpoints | None, view: ChainView, stage: str
) -> StageContext:
    for name in ("inputs", "output", "scratch"):
        (work / name).mkdir()
    for name, path in inputs.items():
        (work / "inputs" / name).symlink_to(path.resolve())
    stop = threading.Event()
    if stage == "train":
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())

    def listener(event: dict[str, Any]) -> None:
        view.on_event(stage, {"kind": "progress", **event})

    return StageContext(
        spec=spec,
        inputs=work / "inputs",
        output=work / "output",
        scratch=work / "scratch",
        progress=Progress(None, listener),
        stop=stop,
        checkpoints=checkpoints,
    )


def last_run(where: Place, run: str | None) -> tuple[str, RunSpec]:
    """The run that a by-hand command works on when it is given no paths."""
    from halops.runstate import find_run, load_spec

    run_id = find_run(where.store, run)
    note(f"from run {run_id}")
    return run_id, load_spec(where.store, run_id)


def bare_spec(profile_name: str, overrides: tuple[str, ...]) -> RunSpec:
    """A spec that carries a profile's settings, for a stage that is given all its inputs as paths."""
    from halops.llamacpp.toolchain import identity
    from halops.profile import load_profile
    from halops.runspec import BaseRef, DatasetRef

    profile = load_profile(profile_name, overrides)
    dataset = DatasetRef(uri="by-hand", sha256=EXPLICIT_DIGEST, size=0)
    return RunSpec(name="by-hand", profile=profile, base=BaseRef(uri="by-hand"), dataset=dataset, llama_cpp=identity())

"""One of several processes that train together, as torchrun starts it: `python -m halops.train.worker JOB`.

It sees what the stage sees, less the store: JOB is a file that `halops.train.launch` wrote. The first process's
progress events go to stdout, one JSON object a line, and its checkpoints to a folder, for the parent to pick up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import uuid
import warnings
from pathlib import Path
from typing import Any, NoReturn

from halops.artifact import Frozen
from halops.errors import ConfigError, HalopsError, TransientError, as_halops_error
from halops.process import die_with_parent
from halops.progress import Progress
from halops.runspec import RunSpec
from halops.stages.context import StageContext

# What collectives say when a process at their other end is gone.
PEER_WORDS = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "c10d")


class Job(Frozen):
    """What the processes of one node are to do."""

    spec: RunSpec
    inputs: Path
    output: Path  # the first process's; the others' are thrown away
    scratch: Path
    handed: Path  # finished checkpoints, STEP-*, each complete as soon as it is there
    outcomes: Path  # RANK.json of each process that ended with an error of ours, and metrics.json
    stop: Path  # a file that appears when training is to stop
    rung: int = 0
    oom_killed: bool = False
    step: int = 0  # of the checkpoint to go on from
    checkpoint: Path | None = None


class StopFile(threading.Event):
    """Set as soon as a file is there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def is_set(self) -> bool:
        return super().is_set() or self._path.exists()


class HandedOver:
    """Implements `halops.stages.context.Checkpoints` for a process whose parent keeps them."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def newest(self) -> tuple[int, Path] | None:
        """The one that the parent fetched and verified."""
        return (self._job.step, self._job.checkpoint) if self._job.checkpoint else None

    def save(self, step: int, folder: Path) -> None:
        """Hand it over at once and whole."""
        os.replace(folder, self._job.handed / f"{step}-{uuid.uuid4().hex[:8]}")

    def flush(self) -> None:
        """The parent's part."""


def main(argv: list[str]) -> NoReturn:
    """Train as one of several; its exit code is that of `halops.errors`."""
    die_with_parent()
    job = Job.model_validate_json(Path(argv[0]).read_bytes())
    from halops.stages.train import run_here
    from halops.train.arguments import PEER_SECONDS
    from halops.train.world import join, leave, this_world

    world = this_world()
    level = logging.WARNING if world.first else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about each other, once for each process
    try:
        join(world, PEER_SECONDS)
        metrics = run_here(_context(job, world.rank), world)
    except BaseException as error:
        known = _known(error)
        if known is None:
            raise
        (job.outcomes / f"{world.rank}.json").write_text(json.dumps(as_json(known)))
        end(known.exit_code)  # no farewell to the others, who may be gone or wait for us
    if world.first:
        (job.outcomes / "metrics.json").write_text(json.dumps(metrics))
    leave()
    end(0)


def end(code: int) -> NoReturn:
    """Without the interpreter's own end, in which gloo's threads, if they hold tensors still, abort the process:
    https://github.com/pytorch/pytorch/pull/179291."""
    with contextlib.suppress(BrokenPipeError):  # nobody reads it any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def tell(event: Any) -> None:
    """One line for the parent. If that is gone its signal is on its way to us, and there is nobody to tell."""
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:
        end(TransientError.exit_code)


def _context(job: Job, rank: int) -> StageContext:
    scratch = job.scratch / f"rank-{rank}"
    output = scratch / "output" if rank else job.output
    for folder in (scratch, output):
        folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        spec=job.spec,
        inputs=job.inputs,
        output=output,
        scratch=scratch,
        progress=Progress() if rank else Progress(None, tell),
        stop=StopFile(job.stop),
        checkpoints=HandedOver(job),
        rung=job.rung,
        oom_killed=job.oom_killed,
    )


def _known(error: BaseException) -> HalopsError | None:
    if isinstance(error, RuntimeError) and any(words in str(error) for words in PEER_WORDS):
        line = str(error).strip().split("\n")[0][:200]
        return TransientError("another training process is gone", where=line, remedy="the next attempt starts them all")
    return as_halops_error(error)


def as_json(error: HalopsError) -> dict[str, Any]:
    """An error as its class and its parts."""
    parts = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
    return parts | ({"problems": list(error.problems)} if isinstance(error, ConfigError) else {})


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a backend does: run a plan's steps somewhere. It decides only where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from halops.errors import (
    ConfigError,
    GpuMemoryError,
    HalopsError,
    HostError,
    IntegrityError,
    Interrupted,
    StageError,
    VerificationError,
)
from halops.plan import Step
from halops.runspec import RunSpec
from halops.runstate import RunStatus

# Called with (stage, event); event["kind"] is one of: started, skipped, progress, waiting, retry,
# succeeded.
Listener = Callable[[str, dict[str, Any]], None]

STAGE_ERRORS: dict[int, type[HalopsError]] = {
    kind.exit_code: kind
    for kind in (HostError, VerificationError, ConfigError, IntegrityError, GpuMemoryError, Interrupted)
}


def stage_error(run_id: str, stage: str, code: int, message: str, remedy: str | None = None) -> HalopsError:
    """The error that a failed stage ends the command with: its exit code is the command's too."""
    kind = STAGE_ERRORS.get(code, StageError)
    return kind(f"stage {stage} failed: {message}", where=f"halops logs {run_id} {stage}", remedy=remedy)


class Backend(Protocol):
    """Somewhere that stages can run."""

    def run(self, spec: RunSpec, listener: Listener) -> None:
        """Run every step that isn't done, in order, and return when all are. Raises HalopsError."""

    def run_beside(self, spec: RunSpec, step: Step, listener: Listener) -> None:
        """Run one of `fast_steps` beside the chain, unless it is done. Its inputs must be there. Raises HalopsError."""

    def submit(self, spec: RunSpec) -> None:
        """Start the run and return at once; it goes on when this process ends."""

    def alive(self, run_id: str) -> bool:
        """Whether something works on this run now."""

    def status(self, spec: RunSpec) -> RunStatus:
        """Where the run stands, and why when it doesn't move."""

    def cancel(self, run_id: str) -> bool:
        """Stop it, letting it save a checkpoint. Returns whether there was anything to stop."""

    def forget(self, run_id: str) -> None:
        """Remove what the run left outside the store. It must not be at work."""

    def logged(self, run_id: str) -> list[str]:
        """Stages that have a log, in order."""

    def logs(self, run_id: str, stage: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of a stage's log; with `follow`, those to come too, until the run ends or stops."""

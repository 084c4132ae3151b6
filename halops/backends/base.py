"""What a backend does: run a plan's steps somewhere. It decides only where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from halops.runspec import RunSpec

# Called with (stage, event); event["kind"] is one of: started, skipped, progress, retry, succeeded.
Listener = Callable[[str, dict[str, Any]], None]


class Backend(Protocol):
    """Somewhere that stages can run."""

    def run(self, spec: RunSpec, listener: Listener) -> None:
        """Run every step that isn't done, in order, and return when all are. Raises HalopsError."""

    def submit(self, spec: RunSpec) -> None:
        """Start the run and return at once; it goes on when this process ends."""

    def alive(self, run_id: str) -> bool:
        """Whether something works on this run now."""

    def cancel(self, run_id: str) -> bool:
        """Stop it, letting it save a checkpoint. Returns whether there was anything to stop."""

    def log(self, run_id: str, stage: str) -> Path | None:
        """The stage's log as a local file, if there is one."""

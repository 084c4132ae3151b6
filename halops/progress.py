"""Progress events: what a stage says while it runs. One JSON object a line, so that a person can follow it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halops.artifact import now


class Progress:
    """Writes progress events to a file and hands them to a listener.

    Args:
        path: the progress.jsonl to append to; None keeps events in memory only.
        listener: called with each event, for a terminal or a status file.
    """

    def __init__(self, path: Path | None = None, listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._path = path
        self._listener = listener
        self._began: dict[str, float] = {}

    def __call__(
        self, message: str, *, done: float | None = None, total: float | None = None, unit: str = "", **metrics: Any
    ) -> None:
        """Report one event.

        Args:
            message: a few words: what is happening.
            done, total: how far this activity is, in `unit`; both or neither.
            metrics: keys from `halops.metrics`.
        """
        event: dict[str, Any] = {"time": now(), "message": message}
        if done is not None and total:
            event |= {"done": done, "total": total, "unit": unit, "eta_seconds": self._eta(message, done, total)}
        if metrics:
            event["metrics"] = metrics
        if self._path:
            with self._path.open("a") as stream:
                stream.write(json.dumps(event) + "\n")
        if self._listener:
            self._listener(event)

    def _eta(self, message: str, done: float, total: float) -> float | None:
        """Seconds left, from the rate since this message's first event."""
        clock = time.monotonic()
        began = self._began.setdefault(message, clock)
        base = self._began.setdefault(message + "\0done", done)
        if done <= base:
            return None
        return round((clock - began) / (done - base) * (total - done), 1)


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole events of a progress file; a torn last line is left out."""
    events = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return events

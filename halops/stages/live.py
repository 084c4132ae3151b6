"""A stage's live status in the store: for people who watch, never the truth about what is done."""

from __future__ import annotations

import json
import threading
from typing import Any

from halops.artifact import now
from halops.errors import HalopsError
from halops.names import PROGRESS, RUNS, STATUS, TENSORBOARD, State
from halops.stages.context import Metrics
from halops.store.base import Store


def status_key(run_id: str, stage: str) -> str:
    """Where a stage's live status is kept."""
    return f"{RUNS}/{run_id}/{stage}/{STATUS}"


def progress_key(run_id: str, stage: str) -> str:
    """Where the live copy of a stage's progress events is kept, those of its earlier attempts included."""
    return f"{RUNS}/{run_id}/{stage}/{PROGRESS}"


def tensorboard_prefix(run_id: str) -> str:
    """Where the live copies of the newest training attempt's TensorBoard event files are kept."""
    return f"{RUNS}/{run_id}/train/{TENSORBOARD}"


class LiveStatus:
    """Holds what `status.json` says. A change of state is written at once; progress when `push` is called."""

    def __init__(self, store: Store, key: str, **fixed: Any) -> None:
        self._store, self._key, self._fixed = store, key, fixed
        self._metrics: dict[str, Any] = {}
        self._progress: dict[str, Any] | None = None
        self._fresh = False  # whether there is progress that the store hasn't seen
        self._lock = threading.Lock()

    def event(self, event: dict[str, Any]) -> None:
        """Take in a progress event, and print it for the log."""
        print(json.dumps(event), flush=True)
        with self._lock:
            self._metrics.update(event.get("metrics", {}))
            self._progress, self._fresh = event, True

    def push(self) -> None:
        """Write what is new, if anything is."""
        with self._lock:
            if not self._fresh:
                return
            document, self._fresh = self._document("running"), False
        self._store.write(self._key, document)

    def write(self, state: State, *, metrics: Metrics | None = None, **more: Any) -> None:
        """Record a change of state."""
        with self._lock:
            self._metrics.update(metrics or {})
            document = self._document(state, **({} if state == "running" else {"finished": now()}), **more)
            self._fresh = False
        self._store.write(self._key, document)

    def failed(self, error: HalopsError) -> None:
        """Record how the attempt ended. A store that can't be written must not hide the first error."""
        try:
            self.write("failed", exit_code=error.exit_code, message=str(error))
        except HalopsError as second:
            print(f"the status could not be stored either: {second}", flush=True)

    def _document(self, state: State, **more: Any) -> bytes:
        document = {
            "state": state, **self._fixed, "updated": now(), "metrics": self._metrics, "progress": self._progress,
            **more,
        }  # fmt: skip
        return json.dumps(document).encode()

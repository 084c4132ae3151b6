"""A stage's live status in the store: for people who watch, never the truth about what is done."""

from __future__ import annotations

import json
import time
from typing import Any

from halops.artifact import now
from halops.errors import HalopsError
from halops.names import RUNS, STATUS, State
from halops.stages.context import Metrics
from halops.store.base import Store

SECONDS_BETWEEN_WRITES = {"file": 1.0}  # by scheme; anything remote gets the default
DEFAULT_SECONDS = 15.0


def status_key(run_id: str, stage: str) -> str:
    """Where a stage's live status is kept."""
    return f"{RUNS}/{run_id}/{stage}/{STATUS}"


class LiveStatus:
    """Writes `status.json` at once on a change of state, and throttled on progress."""

    def __init__(self, store: Store, key: str, **fixed: Any) -> None:
        self._store, self._key, self._fixed = store, key, fixed
        self._last_write = 0.0
        self._interval = SECONDS_BETWEEN_WRITES.get(store.uri.partition("://")[0], DEFAULT_SECONDS)
        self._metrics: dict[str, Any] = {}
        self._progress: dict[str, Any] | None = None

    def event(self, event: dict[str, Any]) -> None:
        """Take in a progress event, print it for the log, and pass it on now and then."""
        print(json.dumps(event), flush=True)
        self._metrics.update(event.get("metrics", {}))
        self._progress = event
        if time.monotonic() - self._last_write >= self._interval:
            self._put("running")

    def write(self, state: State, *, metrics: Metrics | None = None, **more: Any) -> None:
        """Record a change of state."""
        self._metrics.update(metrics or {})
        self._put(state, **({} if state == "running" else {"finished": now()}), **more)

    def failed(self, error: HalopsError) -> None:
        """Record how the attempt ended. A store that can't be written must not hide the first error."""
        try:
            self.write("failed", exit_code=error.exit_code, message=str(error))
        except HalopsError as second:
            print(f"the status could not be stored either: {second}", flush=True)

    def _put(self, state: State, **more: Any) -> None:
        document = {
            "state": state, **self._fixed, "updated": now(), "metrics": self._metrics, "progress": self._progress,
            **more,
        }  # fmt: skip
        self._store.write(self._key, json.dumps(document).encode())
        self._last_write = time.monotonic()

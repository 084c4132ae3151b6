"""Following a run that something else works on: looks at it, and its stages as events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from halops.backends.base import Listener
from halops.errors import TransientError
from halops.runstate import RunStatus, StageStatus

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # with a cluster or a store that is away, before a follower gives up


def looks(read: Callable[[], RunStatus]) -> Iterator[RunStatus]:
    """A status each POLL_SECONDS, the last one that of a run nothing works on any more.

    Raises TransientError when nothing could be read for PATIENCE_SECONDS.
    """
    read_at = time.monotonic()
    while True:
        try:
            status = read()
        except TransientError:
            if time.monotonic() - read_at > PATIENCE_SECONDS:
                raise
        else:
            read_at = time.monotonic()
            yield status
            if status.state != "running":
                return
        time.sleep(POLL_SECONDS)


def follow_run(
    read: Callable[[], RunStatus], listener: Listener, until: Callable[[RunStatus], bool] = lambda status: False
) -> RunStatus:
    """Look until the run is over, or `until` is true, telling the listener what changed. Returns its last status.

    Raises TransientError as `looks` does.
    """
    last: dict[str, StageStatus] = {}
    for status in looks(read):
        for stage in status.stages:
            _tell(last.get(stage.name), stage, listener)
            last[stage.name] = stage
        if until(status):
            break
    return status


def _tell(before: StageStatus | None, stage: StageStatus, listener: Listener) -> None:
    if before == stage:
        return
    if stage.state == "succeeded":
        listener(stage.name, {"kind": "succeeded" if before else "skipped", "seconds": stage.seconds})
    elif stage.state == "running" and (before is None or before.state != "running"):
        listener(stage.name, {"kind": "started"})
    if stage.progress and (before is None or before.progress != stage.progress):
        listener(stage.name, {"kind": "progress", **stage.progress})
    if stage.diagnosis and (before is None or before.diagnosis != stage.diagnosis) and stage.state != "failed":
        listener(stage.name, {"kind": "waiting", "message": stage.diagnosis})

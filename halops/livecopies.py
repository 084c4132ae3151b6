"""Reading what running stages show in the store: their progress as lines of a log, training's TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from halops.names import LOGGED
from halops.runstate import live_status
from halops.stages.live import progress_key, tensorboard_prefix
from halops.store.base import Store
from halops.store.keys import safe_path

POLL_SECONDS = 5.0


def stored_logs(store: Store, run_id: str) -> list[str]:
    """Stages whose progress is in the store, in order."""
    return [stage for stage in LOGGED if store.size(progress_key(run_id, stage)) is not None]


def stored_lines(
    store: Store, run_id: str, stage: str, *, follow: bool = False, alive: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """A stage's progress events as they are stored, one JSON object a line; at the end, how a failed attempt ended.

    Args:
        follow: go on with what is to come, while the run is `alive`. It comes once in half a minute or so.
    """
    done = 0
    while True:
        going = follow and alive()  # asked first: what is stored afterwards is the end
        text = (store.read(progress_key(run_id, stage)) or b"").decode(errors="replace")
        lines = text.splitlines()
        if len(lines) < done:  # the oldest were dropped
            done = 0
        yield from lines[done:]
        done = len(lines)
        if not going:
            break
        time.sleep(POLL_SECONDS)
    status = live_status(store, run_id, stage)
    if status and status.get("state") == "failed":
        yield from f"error: {status.get('message', '')}".splitlines()


def refresh_events(store: Store, run_id: str, folder: Path, *, ours: bool) -> int:
    """Bring training's live TensorBoard events to `folder`. Returns how many files are stored.

    Files grow in place, since a reader may hold them open.

    Args:
        ours: the folder is nobody else's: what an earlier attempt left there goes.
    """
    top = tensorboard_prefix(run_id)
    names = [safe_path(key[len(top) + 1 :]) for key in store.list(top)]
    for name in names:
        _grow(folder / name, store.read(f"{top}/{name}") or b"")
    if ours and folder.is_dir():
        for path in folder.rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in names:
                path.unlink()
    return len(names)


def _grow(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        if len(data) > stream.tell():
            stream.write(data[stream.tell() :])

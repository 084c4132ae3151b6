"""Brings what a running stage shows into the store, beside the stage: its status, its progress, its TensorBoard events.

A thread of its own does it. A slow store never slows the stage, and one that fails never fails it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from halops.artifact import walk_files
from halops.names import PROGRESS, TENSORBOARD
from halops.stages.live import LiveStatus, progress_key, tensorboard_prefix
from halops.store.base import Store

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0  # that the end of an attempt waits for the store; a spot node gives 15 in all
EARLIER_BYTES = 4 << 20  # of earlier attempts' progress that is kept


class Pace(NamedTuple):
    """Seconds between two writes."""

    status: float
    copies: float


PACES = {"file": Pace(1, 5)}  # by the store's scheme; anything remote gets the default
REMOTE_PACE = Pace(15, 30)


class LiveCopies:
    """A stage's growing files, each kept in the store as it is now.

    Args:
        folder: the attempt's; has progress.jsonl, and output/tensorboard while training.
    """

    def __init__(self, store: Store, run_id: str, stage: str, folder: Path) -> None:
        self._store, self._run, self._stage, self._folder = store, run_id, stage, folder
        self._sizes: dict[str, int] = {}  # key -> bytes that the store has
        self._earlier: bytes | None = None  # what earlier attempts left, once it is read
        self._swept = False

    def push(self) -> None:
        """Write those that have grown."""
        self._push(progress_key(self._run, self._stage), self._folder / PROGRESS, self._from_earlier)
        if self._stage == "train":
            self._push_events()

    def _push_events(self) -> None:
        top, folder = tensorboard_prefix(self._run), self._folder / "output" / TENSORBOARD
        files = {f"{top}/{name}": path for name, path in walk_files(folder)} if folder.is_dir() else {}
        for key, path in files.items():
            self._push(key, path, lambda key: b"")
        if files and not self._swept:  # an attempt begins its events with those up to its checkpoint
            self._store.delete(top, keep=list(files))
            self._swept = True

    def _push(self, key: str, path: Path, before: Callable[[str], bytes]) -> None:
        size = path.stat().st_size if path.is_file() else 0
        if size > self._sizes.get(key, 0):
            self._store.write(key, before(key) + path.read_bytes())
            self._sizes[key] = size

    def _from_earlier(self, key: str) -> bytes:
        if self._earlier is None:
            found = self._store.read(key) or b""
            self._earlier = found if len(found) <= EARLIER_BYTES else found[-EARLIER_BYTES:].partition(b"\n")[2]
        return self._earlier


class LiveSync:
    """While its block runs, `status` and `copies` go to the store; at its end once more, for FLUSH_SECONDS at most."""

    def __init__(self, store: Store, status: LiveStatus, copies: LiveCopies, pace: Pace | None = None) -> None:
        self._status, self._copies = status, copies
        self._pace = pace or PACES.get(store.uri.partition("://")[0], REMOTE_PACE)
        self._ending = threading.Event()
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="live-sync", daemon=True)

    def __enter__(self) -> LiveSync:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join(FLUSH_SECONDS)
        if self._thread.is_alive():
            log.warning("the store is slow: the last progress events are in this log alone")

    def _run(self) -> None:
        due = 0.0
        while not self._ending.wait(self._pace.status):
            self._try(self._status.push)
            if time.monotonic() >= due:
                self._try(self._copies.push)
                due = time.monotonic() + self._pace.copies
        self._try(self._copies.push)

    def _try(self, push: Callable[[], None]) -> None:
        try:
            push()
        except Exception as error:  # nothing that goes wrong here may end the stage, a bug of ours included
            text = str(error)
            if text not in self._said:
                self._said.add(text)
                log.warning("what the stage shows could not be stored: %s", text)

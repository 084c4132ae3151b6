"""One writer at a time for a place in the user's cache, across processes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(target: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the lock of `target`, a file beside it; yields its descriptor.

    The kernel lets go of it when the holder ends, however it ends. A child that inherits the descriptor holds the
    lock as well, so that what a killed process started is waited for.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _try(descriptor):
            on_wait()
            time.sleep(1)
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""One worker for one run: a lock that the kernel takes back however its holder ends."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from halops.errors import BusyError


class RunLock:
    """An flock on a file that also names its holder. Use as a context manager.

    Children don't inherit it, so a holder that is killed frees it at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> RunLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise BusyError(
                f"another process (pid {holder(self._path) or 'unknown'}) works on this run already",
                where=str(self._path),
                remedy="`halops status -w` follows it; `halops cancel` stops it",
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, json.dumps({"pid": os.getpid()}).encode())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def holder(path: Path) -> int | None:
    """The pid that wrote itself into the lock's file, if it is readable."""
    try:
        return int(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None

"""Byte counts from many threads, told as progress about once a second."""

from __future__ import annotations

import threading
import time

from halops.progress import Progress


class Meter:
    """Called with byte counts by any thread; reports the sum.

    Args:
        progress: who is told; None tells nobody.
        message: what is happening.
        total: bytes in all.
        interval: least seconds between two reports; the last one is always made.
    """

    def __init__(self, progress: Progress | None, message: str, total: int, interval: float = 1.0) -> None:
        self._progress, self._message, self._total, self._interval = progress, message, total, interval
        self._done = 0
        self._last = 0.0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        """Add `count` bytes; a negative count takes bytes back that must be sent again."""
        with self._lock:
            self._done += count
            clock = time.monotonic()
            if self._progress and (clock - self._last >= self._interval or self._done >= self._total):
                self._last = clock
                self._progress(self._message, done=self._done, total=self._total, unit="bytes")

"""Checkpoints stored beside the training: it goes on while a thread uploads the one that it left."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import uuid
from pathlib import Path

from halops.stages.context import Checkpoints

log = logging.getLogger(__name__)


class BackgroundCheckpoints:
    """Implements `halops.stages.context.Checkpoints` over another one, one upload at a time.

    A checkpoint that comes while one is on its way waits for it; of several that wait the newest is stored, the others
    are dropped. Training never waits, unless the last upload failed: then the next checkpoint must succeed at once.

    Args:
        kept: where checkpoints are kept; used by one thread at a time.
        waiting: a folder on the same disk as the checkpoints that are saved.
    """

    def __init__(self, kept: Checkpoints, waiting: Path) -> None:
        self._kept, self._waiting = kept, waiting
        self._next: tuple[int, Path] | None = None
        self._busy = False
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def newest(self) -> tuple[int, Path] | None:
        """The newest valid checkpoint that is stored."""
        return self._kept.newest()

    def save(self, step: int, folder: Path) -> None:
        """Take the folder over. Raises what the upload before raised, if this one fails too."""
        self._waiting.mkdir(parents=True, exist_ok=True)
        taken = self._waiting / f"{step}-{uuid.uuid4().hex[:8]}"
        os.replace(folder, taken)
        with self._change:
            dropped, self._next = self._next, (step, taken)
            failed = self._error is not None
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name=f"checkpoint-{step}", daemon=True).start()
        if dropped:
            shutil.rmtree(dropped[1], ignore_errors=True)
        if failed:
            self.flush()

    def flush(self) -> None:
        """Wait until nothing is on its way. Raises what the last upload raised."""
        self._settle()
        if self._error:
            raise self._error

    def close(self) -> None:
        """The same at the end of an attempt that failed: what goes wrong is only noted."""
        self._settle()
        if self._error:
            log.warning("the last checkpoint could not be stored: %s", self._error)

    def _settle(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._busy)

    def _work(self) -> None:
        while True:
            with self._change:
                if self._next is None:
                    self._busy = False
                    self._change.notify_all()
                    return
                (step, folder), self._next = self._next, None
            error: BaseException | None = None
            try:
                self._kept.save(step, folder)
            except BaseException as caught:
                error = caught
            shutil.rmtree(folder, ignore_errors=True)
            with self._change:
                self._error = error

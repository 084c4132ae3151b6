"""Training checkpoints in a store, each under the commit protocol: PREFIX/checkpoints/STEP/."""

from __future__ import annotations

import logging
import shutil
import uuid
from pathlib import Path

from halops import __version__
from halops.artifact import FileEntry, Manifest, Producer, now
from halops.errors import HalopsError, IntegrityError
from halops.names import CHECKPOINTS, MANIFEST
from halops.store.base import Store
from halops.store.commit import clean_attempts, fetch, publish, read_manifest

log = logging.getLogger(__name__)


class StoredCheckpoints:
    """Implements `halops.stages.context.Checkpoints`.

    Args:
        prefix: the training step's place in the store.
        limit: how many finished checkpoints to keep.
        scratch: a folder to fetch into.
    """

    def __init__(self, store: Store, prefix: str, *, limit: int, scratch: Path) -> None:
        self._store, self._top, self._scratch = store, f"{prefix}/{CHECKPOINTS}", scratch
        self._limit = max(1, limit)

    def newest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint whose every byte is right; others are passed over aloud."""
        for step in sorted(self._finished(), reverse=True):
            folder = self._scratch / f"checkpoint-{step}"
            try:
                manifest = read_manifest(self._store, self._prefix(step))
                if manifest is None:  # deleted meanwhile
                    continue
                fetch(self._store, manifest, folder)
            except IntegrityError as error:
                log.warning("checkpoint %d is not usable: %s", step, error)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            return step, folder
        return None

    def save(self, step: int, folder: Path) -> None:
        """Store a finished checkpoint, then drop the oldest past the limit."""
        started, attempt = now(), uuid.uuid4().hex[:12]  # its own keys, even if this step was saved before

        def make_manifest(files: tuple[FileEntry, ...]) -> Manifest:
            return Manifest(
                run_id=self._top,
                attempt=attempt,
                spec_sha256="",
                producer=Producer(stage="train", code_version=__version__),
                inputs={},
                files=files,
                metrics={"step": step},
                started=started,
                finished=now(),
            )

        before = self._store.read(f"{self._prefix(step)}/{MANIFEST}")
        publish(self._store, self._prefix(step), attempt, folder, make_manifest=make_manifest, replaces=before)
        clean_attempts(self._store, self._prefix(step), keep=attempt)
        self._prune(step)

    def flush(self) -> None:
        """Everything is stored already."""

    def _prune(self, saved: int) -> None:
        """Delete what is past the limit, and unfinished leftovers. The manifest goes first: then it is gone."""
        finished = self._finished()
        doomed = (self._all() - finished) | set(sorted(finished - {saved})[: max(0, len(finished) - self._limit)])
        for step in sorted(doomed):
            try:
                self._store.delete(f"{self._prefix(step)}/{MANIFEST}")
                self._store.delete(self._prefix(step))
            except HalopsError as error:
                log.warning("checkpoint %d stays: %s", step, error)

    def _prefix(self, step: int) -> str:
        return f"{self._top}/{step}"

    def _finished(self) -> set[int]:
        return self._steps(tail=f"/{MANIFEST}")

    def _all(self) -> set[int]:
        return self._steps(tail="")

    def _steps(self, tail: str) -> set[int]:
        """Steps with a key that ends in `tail`, if it is given right below the step."""
        steps = set()
        for key in self._store.list(self._top):
            step, slash, rest = key[len(self._top) + 1 :].partition("/")
            if step.isdecimal() and (not tail or slash + rest == tail):
                steps.add(int(step))
        return steps

"""Checkpoints in a local folder, for training by hand. The same rule as in a store: a manifest, written last."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

from halops.artifact import canonical_json, sha256_file, walk_files
from halops.errors import IntegrityError, NotFoundError
from halops.names import MANIFEST

log = logging.getLogger(__name__)


class LocalCheckpoints:
    """Implements `halops.stages.context.Checkpoints` as FOLDER/STEP, each with the SHA-256 of its files.

    Args:
        folder: where checkpoints are kept; made when the first one is saved.
        limit: how many to keep.
        resume: a checkpoint folder to go on from, instead of the newest one here.
    """

    def __init__(self, folder: Path, *, limit: int = 3, resume: Path | None = None) -> None:
        self._folder, self._limit, self._resume = folder, max(1, limit), resume

    def newest(self) -> tuple[int, Path] | None:
        """Step and folder of the checkpoint to go on from.

        The one that was asked for: raises NotFoundError if it is none, IntegrityError if a byte of it is wrong.
        Otherwise the newest whose every byte is right; broken ones are passed over aloud.
        """
        if self._resume:
            verify(self._resume)
            return _step(self._resume), self._resume
        for step in sorted(self._steps(), reverse=True):
            folder = self._folder / str(step)
            try:
                verify(folder)
            except (IntegrityError, NotFoundError) as error:
                log.warning("checkpoint %s is not usable: %s", folder, error.what)
                continue
            return step, folder
        return None

    def save(self, step: int, folder: Path) -> None:
        """Keep a finished checkpoint, then drop the oldest past the limit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        draft, kept = self._folder / f".{step}.partial", self._folder / str(step)
        for stale in (draft, kept):
            shutil.rmtree(stale, ignore_errors=True)
        shutil.copytree(folder, draft)
        digests = {name: sha256_file(path) for name, path in walk_files(draft)}
        (draft / MANIFEST).write_bytes(canonical_json({"kind": "halops/checkpoint/v1", "step": step, "files": digests}))
        os.replace(draft, kept)
        for old in sorted(self._steps() - {step})[: max(0, len(self._steps()) - self._limit)]:
            shutil.rmtree(self._folder / str(old), ignore_errors=True)

    def flush(self) -> None:
        """Everything is kept already."""

    def _steps(self) -> set[int]:
        if not self._folder.is_dir():
            return set()
        return {int(path.name) for path in self._folder.iterdir() if path.name.isdigit()}


def verify(folder: Path) -> None:
    """Raise NotFoundError if `folder` holds no checkpoint, IntegrityError if a file of it isn't as it was saved."""
    path = folder / MANIFEST
    if not path.is_file():
        raise NotFoundError(
            "not a finished checkpoint", where=str(folder), remedy="name a folder STEP that has a manifest"
        )
    try:
        files = json.loads(path.read_bytes())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("the checkpoint's manifest is torn", where=str(path)) from error
    for name, digest in files.items():
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            raise IntegrityError(
                f"{name} is not as it was saved", where=str(folder), remedy="go on from an older checkpoint"
            )


def _step(folder: Path) -> int:
    return int(json.loads((folder / MANIFEST).read_bytes())["step"])

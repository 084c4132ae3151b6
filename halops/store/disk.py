"""What the local disk can do to us, as errors of ours; and files that appear only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from halops.errors import HalopsError, HostError
from halops.store.keys import TEMPORARY

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def disk_errors(path: Path, refused: type[HalopsError] = HostError) -> Iterator[None]:
    """Translate an OSError met while working on `path`.

    Args:
        refused: what to raise unless the disk is full, which is always a HostError.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path, refused) from error


def disk_error(error: OSError, path: Path, refused: type[HalopsError] = HostError) -> HalopsError:
    """The error of ours that an OSError means."""
    where = str(error.filename or path)
    if error.errno in FULL:
        return HostError(
            f"no room to write: {error.strerror}",
            where=where,
            remedy=f"{_free(path)}; free some space (halops delete RUN), or work on another disk",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return refused(f"not allowed: {error.strerror}", where=where, remedy="check the owner, the mode and the mount")
    return refused(f"can't use the file: {error.strerror or error}", where=where, remedy="check the path and the disk")


def _free(path: Path) -> str:
    for folder in (path, *path.parents):
        if folder.is_dir():
            return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are left on the disk of {folder}"
    return "nothing is known of the disk"


@contextlib.contextmanager
def new_file(target: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A stream whose bytes appear at `target` at once, and only if the block ends without an exception.

    Args:
        durable: have them on the disk before they appear.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    try:
        with temporary.open("xb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(target)
        if durable:
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(target: Path) -> Path:
    """A name beside `target` that nobody else uses."""
    return target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

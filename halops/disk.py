"""What the local disk can do to us, as errors of ours; and files that appear only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from halops.errors import HalopsError, HostError

OnBytes = Callable[[int], None]  # told how many bytes went by

TEMPORARY = ".halops-tmp-"  # begins the name of a file that is still being written
BLOCK = 1 << 20
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


def require_room(folder: Path, size: int) -> None:
    """Raise HostError now, rather than hours into a download, if `size` bytes won't fit below `folder`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise HostError(
            f"{size / 1e9:,.1f} GB are needed, and {free / 1e9:,.1f} GB are left",
            where=str(folder),
            remedy="free some space (halops delete RUN), or point HALOPS_CACHE or HALOPS_WORK to a larger disk",
        )


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


def link_or_copy(source: Path, target: Path, on_bytes: OnBytes | None = None) -> str:
    """Make `target` a hard link of `source`, or a copy across file systems. SHA-256 of the bytes that are there then.

    `target` must not exist. Raises HostError; OSError where it is about the source.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, one without links, or somebody else's file
        with source.open("rb") as stream, disk_errors(target), target.open("xb") as copy:
            return pump(stream, copy, on_bytes)
    with target.open("rb") as stream:
        return pump(stream, None, on_bytes)


def pump(source: BinaryIO, target: BinaryIO | None, on_bytes: OnBytes | None = None) -> str:
    """Copy all of `source` to `target`, if there is one; SHA-256 of what passed."""
    digest = hashlib.sha256()
    while block := source.read(BLOCK):
        digest.update(block)
        if target:
            target.write(block)
        if on_bytes:
            on_bytes(len(block))
    return digest.hexdigest()


def temporary_name(target: Path) -> Path:
    """A name beside `target` that nobody else uses."""
    return target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Artifacts in a folder: `file:///path`. Written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from halops.disk import TEMPORARY, OnBytes, disk_error, disk_errors, link_or_copy, new_file, pump, temporary_name
from halops.errors import IntegrityError, StoreUnavailable
from halops.store.keys import kept, safe_path

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """A store below one folder, which is made when something is first written.

    Downloads are hard links where the file system allows it: readers must not write into them.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.uri = self.root.as_uri()

    def read(self, key: str) -> bytes | None:
        """The whole object, or None."""
        with self._errors(key):
            try:
                return self._path(key).read_bytes()
            except ABSENT:
                return None

    def write(self, key: str, data: bytes) -> None:
        """Put a small object, atomically and durably."""
        with self._errors(key), new_file(self._path(key), durable=True) as stream:
            stream.write(data)

    def exchange(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Compare and write under a lock of the folder, which the kernel takes from a process that dies."""
        path = self._path(key)
        with self._errors(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
        try:
            with self._errors(key):
                fcntl.flock(folder, fcntl.LOCK_EX)
            if self.read(key) != old:
                return False
            self.write(key, new)
            return True
        finally:
            os.close(folder)

    def upload(self, path: Path, key: str, sha256: str, on_bytes: OnBytes | None = None) -> None:
        """Copy a file in, hashing what is written. Raises IntegrityError if it isn't what was promised."""
        with disk_errors(path):
            source = path.open("rb")
        with source, self._errors(key):
            with new_file(self._path(key), durable=True) as stream:
                if pump(source, stream, on_bytes) != sha256:
                    raise IntegrityError(
                        "the file changed while it was stored", where=str(path), remedy="store it again"
                    )
                size = stream.tell()
            if self.size(key) != size:
                raise IntegrityError("the stored file is not as long as its source", where=self._where(key))

    def download(self, key: str, path: Path, sha256: str | None, size: int, on_bytes: OnBytes | None = None) -> str:
        """Link the stored file, or copy it across file systems, and hash it before it appears at `path`."""
        temporary = temporary_name(path)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = self._take(key, temporary, size, on_bytes)
            if sha256 and found != sha256:
                raise IntegrityError(
                    "the stored file does not match its digest",
                    where=self._where(key),
                    remedy=f"expected {sha256}, found {found}; delete the stage's manifest to have it made again",
                )
            with disk_errors(path):
                temporary.replace(path)
            return found
        finally:
            temporary.unlink(missing_ok=True)

    def _take(self, key: str, target: Path, size: int, on_bytes: OnBytes | None) -> str:
        """Link or copy the object to `target`; the SHA-256 of what is there then."""
        source = self._path(key)
        try:
            found = source.stat().st_size if source.is_file() else None
        except OSError as error:
            raise disk_error(error, source, StoreUnavailable) from error
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes, not {size}"
            raise IntegrityError(f"a stored file {what}", where=self._where(key), remedy="have its stage run again")
        with self._errors(key):
            return link_or_copy(source, target, on_bytes)

    def size(self, key: str) -> int | None:
        """Size in bytes, or None."""
        with self._errors(key):
            path = self._path(key)
            return path.stat().st_size if path.is_file() else None

    def digest(self, key: str, on_bytes: OnBytes | None = None) -> str | None:
        """SHA-256 of the stored bytes, or None."""
        with self._errors(key):
            try:
                with self._path(key).open("rb") as stream:
                    return pump(stream, None, on_bytes)
            except ABSENT:
                return None

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below `prefix`, sorted; files still being written aren't among them."""
        top = self._path(prefix) if prefix else self.root
        keys = []
        with self._errors(prefix):
            for folder, _, names in os.walk(top):
                base = Path(folder).relative_to(self.root).as_posix()
                keys += [name if base == "." else f"{base}/{name}" for name in names if not name.startswith(TEMPORARY)]
        return iter(sorted(keys))

    def delete(self, prefix: str, keep: Collection[str] = ()) -> None:
        """Remove `prefix` and everything below it, half-written files too, but nothing below one of `keep`."""
        target = self._path(prefix)
        with self._errors(prefix):
            self._delete(target, prefix, keep)

    def _delete(self, target: Path, key: str, keep: Collection[str]) -> None:
        if kept(key, keep):
            return
        if not target.is_dir() or target.is_symlink():
            with contextlib.suppress(*ABSENT):
                target.unlink()
        elif any(kept(name, [key]) for name in keep):
            for entry in list(target.iterdir()):
                self._delete(entry, f"{key}/{entry.name}", keep)
        else:
            while target.exists():
                with contextlib.suppress(FileNotFoundError):  # somebody else deletes too
                    shutil.rmtree(target)

    def check(self, keys: Mapping[str, str] | None = None) -> None:
        """Write, read and remove a small file. Raises StoreUnavailable or HostError."""
        key = f".halops-check-{uuid.uuid4().hex}"
        self.write(key, key.encode())
        if self.read(key) != key.encode():
            raise StoreUnavailable("the store does not return what was written", where=self.uri)
        self.delete(key)

    def _path(self, key: str) -> Path:
        return self.root / safe_path(key)

    def _where(self, key: str) -> str:
        return str(self.root / key)

    def _errors(self, key: str) -> contextlib.AbstractContextManager[None]:
        return disk_errors(self.root / key, StoreUnavailable)

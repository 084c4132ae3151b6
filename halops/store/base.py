"""What a store must do. Keys are relative posix paths; bytes are immutable once a manifest names them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from halops.disk import OnBytes


class Store(Protocol):
    """An object store. Implementations raise only errors of `halops.errors`.

    StoreUnavailable: it can't be reached, or refuses our credentials. HostError: the disk is full.
    """

    uri: str

    def read(self, key: str) -> bytes | None:
        """The whole object, or None if there is none. For small objects."""

    def write(self, key: str, data: bytes) -> None:
        """Put a small object, atomically: readers see the old bytes or the new ones."""

    def exchange(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Put a small object in the place of `old` (None: of nothing), or nothing at all if something else is there.

        Returns whether it did. Of two that exchange the same `old`, one succeeds. A server that knows no conditional
        writes (If-None-Match, If-Match) makes this a check and a write, with a moment between them.
        """

    def upload(self, path: Path, key: str, sha256: str, on_bytes: OnBytes | None = None) -> None:
        """Store a file. Afterwards the stored object's size and checksum are known to be right.

        Raises IntegrityError if what was stored isn't what was read. An interrupted upload leaves nothing
        that `read`, `exists` or `list` shows at `key`.
        """

    def download(self, key: str, path: Path, sha256: str | None, size: int, on_bytes: OnBytes | None = None) -> str:
        """Fetch an object to `path`, hashing as the bytes pass; `path` appears only when they are right.

        Returns their SHA-256. With `sha256=None` only the size is compared: the caller must know better later.

        Raises IntegrityError (43) on a mismatch, a truncated object, or none at all.
        """

    def size(self, key: str) -> int | None:
        """Size in bytes, or None if there is no such object."""

    def digest(self, key: str, on_bytes: OnBytes | None = None) -> str | None:
        """SHA-256 of the stored bytes, all of them read again; None if there is no such object."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below `prefix`, sorted."""

    def delete(self, prefix: str, keep: Collection[str] = ()) -> None:
        """Remove the object `prefix`, everything below it, and what interrupted uploads left there.

        Nothing below one of the prefixes in `keep` is touched. Nothing there is no error.
        """

    def check(self, keys: Mapping[str, str] | None = None) -> None:
        """Prove that the store can be reached and written. Raises StoreUnavailable with the remedy.

        Args:
            keys: credentials to try instead of this process's own, by the names of their variables; a folder has none.
        """

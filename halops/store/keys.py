"""Keys, and paths that came from elsewhere: what is fit to be joined to a folder."""

from __future__ import annotations

from collections.abc import Collection

from halops.errors import IntegrityError


def safe_path(path: str) -> str:
    """`path` itself, if it is relative and stays below the folder that it will be joined to.

    Raises IntegrityError for `..`, absolute paths, empty segments, backslashes and control characters.
    """
    segments = path.split("/")
    bad = any(segment in ("", ".", "..") for segment in segments)
    if bad or "\\" in path or any(ord(character) < 32 for character in path):
        raise IntegrityError(f"unsafe path {path!r}", remedy="whatever names it was altered, or isn't from HALops")
    return path


def below(key: str, prefix: str) -> bool:
    """Whether `key` is `prefix` itself or lies below it; an empty prefix is the whole store."""
    return not prefix or key == prefix or key.startswith(prefix + "/")


def kept(key: str, keep: Collection[str]) -> bool:
    """Whether one of `keep` covers `key`."""
    return any(below(key, prefix) for prefix in keep)

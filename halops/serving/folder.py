"""A folder of models by digest: which file is which, and which may go."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from halops.disk import TEMPORARY

SUFFIX = ".gguf"
STALE_SECONDS = 3600  # a download that still goes on writes at least so often


def path_of(folder: Path, sha256: str) -> Path:
    """Where the file of that digest is, or would be."""
    return folder / f"{sha256}{SUFFIX}"


def clear_away(folder: Path, keep: int, used: Collection[str]) -> list[Path]:
    """Remove all models but those `used` and the `keep` others that were used last, and what killed downloads left.

    A server that still reads a removed file isn't disturbed: its bytes go when it ends. Returns what was removed.
    """
    mine = {path_of(folder, sha256) for sha256 in used}
    others = [path for path in folder.glob(f"*{SUFFIX}") if path not in mine]
    old = sorted(others, key=_age)[keep:]
    stale = [path for name in (f"{TEMPORARY}*", "*.part") for path in folder.glob(name) if _age(path) > STALE_SECONDS]
    for path in (*old, *stale):
        path.unlink(missing_ok=True)
    return [*old, *stale]


def _age(path: Path) -> float:
    """Seconds since it was last written or used; that of a file that another pod has just removed is endless."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")

"""Artifacts in a store: the commit protocol, checkpoints and datasets, in one place to import from."""

from __future__ import annotations

from pathlib import Path

from halops.artifact import sha256_file
from halops.disk import disk_errors
from halops.errors import NotFoundError
from halops.names import DATASETS
from halops.progress import Progress
from halops.store.base import Store
from halops.store.checkpoints import StoredCheckpoints
from halops.store.commit import clean_attempts, fetch, publish, read_manifest, verify_stored
from halops.store.meter import Meter

__all__ = [
    "StoredCheckpoints",
    "clean_attempts",
    "fetch",
    "publish",
    "put_dataset",
    "read_manifest",
    "verify_stored",
]


def put_dataset(store: Store, path: Path, progress: Progress | None = None) -> tuple[str, int]:
    """Store a dataset under its digest, unless it is there, whole. Returns its SHA-256 and size.

    Raises NotFoundError if `path` is no file.
    """
    if not path.is_file():
        raise NotFoundError("no such file" if not path.exists() else "not a file", where=str(path))
    with disk_errors(path):
        digest, size = sha256_file(path), path.stat().st_size
    key = f"{DATASETS}/{digest}.jsonl"
    if store.size(key) != size or store.digest(key) != digest:
        store.upload(path, key, digest, Meter(progress, "storing the dataset", size))
    return digest, size

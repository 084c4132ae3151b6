"""Where models come from, by URI scheme. A new source is a module with `pin` and `fetch`, and a row here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from halops.errors import ConfigError
from halops.models.check import check_folder
from halops.progress import Progress
from halops.store.table import scheme_of

# scheme -> module
SOURCES = {
    "hf": "halops.models.hub",
    "pypi": "halops.models.pypi",
    "file": "halops.models.folder",
    "s3": "halops.models.bucket",
}


def pin(uri: str) -> str:
    """The same model's URI with everything resolved that could change: commit, version or digest.

    `hf://org/name` -> `hf://org/name@COMMIT`; `pypi://package` -> `pypi://package==VERSION`;
    `file://folder` -> `file:///folder#sha256=DIGEST`; `s3://bucket/prefix` -> `s3://bucket/prefix#sha256=DIGEST`.
    What is pinned already is returned as it is, without looking.

    Raises:
        ConfigError: not an address of a model.
        NotFoundError: nothing is there.
        ModelError: no right to it, or only unusable formats.
        TransientError: the hub or the store can't be reached.
    """
    pinned: str = _source(uri).pin(uri)
    return pinned


def fetch_model(uri: str, dest: Path, progress: Progress | None = None) -> Path:
    """Put a model (or an adapter) into the folder `dest` in Hugging Face form, verified and checked; returns `dest`.

    Files may be hard links into a cache, or to the user's own: they must not be written to.

    Raises as `pin`, and:
        IntegrityError: it isn't what was pinned, or is damaged.
        HostError: the disk is full, or a tool is missing.
    """
    _source(uri).fetch(uri, dest, progress)
    check_folder(dest)
    return dest


def _source(uri: str) -> Any:
    scheme = scheme_of(uri)
    if scheme not in SOURCES:
        known = ", ".join(f"{name}://" for name in SOURCES)
        raise ConfigError(f"no models from {scheme}://", where=uri, remedy=f"known are: {known}")
    return importlib.import_module(SOURCES[scheme])

"""Models on a Hugging Face hub, or a mirror of one: `hf://org/name@COMMIT`.

HF_ENDPOINT names the hub and HF_TOKEN the reader. Files are verified against the digests that the hub's own
listing gives: SHA-256 for large files, Git's blob id for small ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from halops import __version__
from halops.artifact import sha256_bytes
from halops.disk import disk_errors, require_room
from halops.errors import ConfigError, IntegrityError, Interrupted, TransientError
from halops.models.download import Downloader, Expected
from halops.models.files import choose
from halops.names import cache_folder
from halops.progress import Progress
from halops.store.meter import Meter
from halops.store.parallel import each

DEFAULT_ENDPOINT = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PAUSE = 1.0  # seconds before the second try


class Hub:
    """A hub's API. Use as a context manager."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        _check_endpoint(self.endpoint)
        token = token or os.environ.get("HF_TOKEN")
        headers = {"User-Agent": f"halops/{__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})
        # httpx takes the Authorization header off when a redirect leads to another host: the CDN never sees it.
        self._client = httpx.Client(headers=headers, follow_redirects=True, timeout=httpx.Timeout(60, connect=10))
        self._downloader = Downloader(self._client, PAUSE)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def listing(self, name: str, revision: str) -> tuple[str, dict[str, Expected]]:
        """A revision's commit, and each of its files with what the hub knows of it."""
        url = f"{self.endpoint}/api/models/{name}/revision/{quote(revision, safe='')}"
        try:
            info = self._downloader.get(url, {"blobs": "true"}).json()
            files = {str(item["rfilename"]): _expected(item) for item in info["siblings"]}
            commit = str(info["sha"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransientError(
                "what answers is no hub", where=url, remedy="check HF_ENDPOINT, and any proxy or portal in between"
            ) from error
        if not COMMIT.fullmatch(commit):
            raise TransientError(f"the hub names no commit, but {commit[:50]!r}", where=url, remedy="check HF_ENDPOINT")
        return commit, files

    def fetch(
        self, name: str, commit: str, files: dict[str, Expected], folder: Path, progress: Progress | None
    ) -> None:
        """Fetch files of a commit into `folder`, several at once; what is there already is verified, not fetched."""
        total = sum(item.size or 0 for item in files.values())
        require_room(folder, total - sum(path.stat().st_size for path in folder.iterdir()))
        meter = Meter(progress, f"downloading {name}", total)
        stop = threading.Event()

        def count(size: int) -> None:
            if stop.is_set():
                raise Interrupted("the download was stopped", remedy="the same command goes on from here")
            meter(size)

        def fetch_file(path: str) -> None:
            url = f"{self.endpoint}/{name}/resolve/{commit}/{quote(path)}"
            self._downloader.fetch(url, folder / path, files[path], count)

        each(list(files), [0] * len(files), fetch_file, stop)


def _check_endpoint(endpoint: str) -> None:
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL as error:
        raise ConfigError(f"HF_ENDPOINT: {error}", where=endpoint) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("HF_ENDPOINT is no http:// or https:// URL", where=endpoint)


def _expected(item: dict[str, Any]) -> Expected:
    lfs = item.get("lfs")
    if lfs:
        return Expected(int(lfs.get("size", item.get("size"))), sha256=str(lfs.get("sha256") or lfs.get("oid")))
    size, blob = item.get("size"), item.get("blobId")
    return Expected(None if size is None else int(size), git_sha1=blob or None)


def pin(uri: str) -> str:
    """Resolve a branch or tag to its commit; a URI with a whole commit is returned as it is, without the network.

    Raises ConfigError, ModelError (no right to it), NotFoundError or TransientError.
    """
    name, revision = split(uri)
    if COMMIT.fullmatch(revision):
        return uri
    with Hub() as hub:
        commit, _ = hub.listing(name, revision)
    return f"hf://{name}@{commit}"


def fetch(uri: str, dest: Path, progress: Progress | None = None) -> None:
    """Fetch a pinned model into `dest`. A download that was cut off goes on from where it stopped."""
    name, commit = split(uri)
    with Hub() as hub:
        found, listed = hub.listing(name, commit)
        if found != commit:
            raise IntegrityError(f"the hub answered with commit {found}", where=uri, remedy="check HF_ENDPOINT")
        files = {path: listed[path] for path in choose(listed, uri)}
        with _staging(f"{hub.endpoint} {uri}", progress) as staging:
            hub.fetch(name, commit, files, staging, progress)
            with disk_errors(dest):
                dest.mkdir(parents=True, exist_ok=True)
                for path in files:
                    shutil.move(staging / path, dest / path)


def split(uri: str) -> tuple[str, str]:
    """Name and revision, by default `main`. Raises ConfigError."""
    name, mark, revision = uri.removeprefix("hf://").partition("@")
    if not _NAME.fullmatch(name) or ".." in name or (mark and not revision) or "#" in uri:
        raise ConfigError("not a model's address", where=uri, remedy="expected hf://org/name or hf://org/name@revision")
    return name, revision or "main"


@contextlib.contextmanager
def _staging(key: str, progress: Progress | None) -> Iterator[Path]:
    """A folder of the cache for one download at a time; kept when the download fails, so that the next goes on."""
    folder = cache_folder() / "downloads" / sha256_bytes(key.encode())[:16]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f"{folder.name}.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if progress:
                progress("waiting for another download of this model")
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder.mkdir(parents=True, exist_ok=True)  # the other one has finished and tidied up
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

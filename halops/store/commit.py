"""The commit protocol, on any store: bytes under an attempt of their own, each object checked, the manifest last.

PREFIX/attempts/ATTEMPT/PATH     bytes; attempts never share keys
PREFIX/manifest.json             it alone means done

Of two attempts at once the first manifest stands: the second exchanges nothing, and takes the first one's. So whoever
has written a manifest may sweep up everything that it doesn't name.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from halops.artifact import FileEntry, Manifest, sha256_file, walk_files
from halops.disk import disk_errors
from halops.errors import HalopsError, IntegrityError, TransientError
from halops.names import ATTEMPTS, MANIFEST
from halops.progress import Progress
from halops.store.base import Store
from halops.store.keys import safe_path
from halops.store.meter import Meter
from halops.store.parallel import each

MakeManifest = Callable[[tuple[FileEntry, ...]], Manifest]

AGAIN = "another attempt at this stage finished first, perhaps: run the same command again"

log = logging.getLogger(__name__)


def read_manifest(store: Store, prefix: str) -> Manifest | None:
    """The manifest at `prefix`, or None if nothing is done there. Raises IntegrityError for a torn one."""
    key = f"{prefix}/{MANIFEST}"
    data = store.read(key)
    return None if data is None else Manifest.from_bytes(data, f"{store.uri} {key}")


def publish(
    store: Store,
    prefix: str,
    attempt: str,
    folder: Path,
    *,
    make_manifest: MakeManifest,
    replaces: bytes | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Store every file of `folder`, prove each one, then write the manifest. Returns the one that stands.

    Args:
        prefix: the step's place in the store.
        attempt: names this attempt's own keys.
        make_manifest: called with the stored files once they are all there.
        replaces: the manifest that was found there and doesn't count; None if there was none.

    Another attempt may have been faster. Its manifest is then returned, and ours and its files are gone.

    Raises:
        IntegrityError: a file changed meanwhile, or other bytes were stored than were sent.
        TransientError: stored files vanished, since another attempt finished first and swept up.
    """
    key = f"{prefix}/{MANIFEST}"
    try:
        manifest = make_manifest(_store_all(store, f"{prefix}/{ATTEMPTS}/{attempt}", folder, progress))
        _expect_stored(store, manifest)
        if store.exchange(key, replaces, manifest.to_bytes()):
            return manifest
    except HalopsError:
        if store.read(key) in (replaces, None):  # nobody was faster, and swept our files up: it is our own trouble
            raise
    return _yield_to_winner(store, prefix, attempt)


def _store_all(store: Store, top: str, folder: Path, progress: Progress | None) -> tuple[FileEntry, ...]:
    files = [(path, source, source.stat().st_size) for path, source in walk_files(folder)]
    meter = Meter(progress, "storing", sum(size for _, _, size in files))

    def store_file(item: tuple[str, Path, int]) -> FileEntry:
        path, source, size = item
        with disk_errors(source):
            digest = sha256_file(source)
        store.upload(source, f"{top}/{path}", digest, meter)
        return FileEntry(path=path, key=f"{top}/{path}", size=size, sha256=digest)

    return tuple(each(files, [size for _, _, size in files], store_file))


def _yield_to_winner(store: Store, prefix: str, attempt: str) -> Manifest:
    winner = read_manifest(store, prefix)
    if winner is None:
        raise TransientError("the manifest was taken away meanwhile", where=f"{store.uri} {prefix}", remedy=AGAIN)
    _expect_stored(store, winner)
    if winner.attempt != attempt:
        _sweep(store, f"{prefix}/{ATTEMPTS}/{attempt}", ())
    return winner


def _expect_stored(store: Store, manifest: Manifest) -> None:
    """verify_stored, but what is missing is another attempt's doing: it swept up."""
    try:
        verify_stored(store, manifest)
    except IntegrityError as error:
        raise TransientError(
            "files vanished from the store before the manifest was written", where=error.where, remedy=AGAIN
        ) from error


def fetch(
    store: Store, manifest: Manifest, dest: Path, only: Sequence[str] = (), progress: Progress | None = None
) -> None:
    """Fetch a manifest's files into `dest`, each one verified as its bytes pass.

    Args:
        only: glob patterns on the files' paths; none means all. A pattern that fits nothing is no error.

    Raises IntegrityError for an object that is missing, truncated, swapped or altered.
    """
    entries = [entry for entry in manifest.files if not only or any(fnmatch.fnmatch(entry.path, p) for p in only)]
    meter = Meter(progress, "fetching", sum(entry.size for entry in entries))

    def fetch_file(entry: FileEntry) -> None:
        store.download(entry.key, dest / safe_path(entry.path), entry.sha256, entry.size, meter)

    with disk_errors(dest):
        dest.mkdir(parents=True, exist_ok=True)
    each(entries, [entry.size for entry in entries], fetch_file)


def verify_stored(store: Store, manifest: Manifest, deep: bool = False) -> None:
    """Check that each of the manifest's objects is there with its size, or `deep`: with its bytes.

    Raises IntegrityError naming the first that isn't.
    """

    def verify(entry: FileEntry) -> None:
        size = store.size(entry.key)
        if size is None:
            problem = "is missing"
        elif size != entry.size:
            problem = f"has {size} bytes, not {entry.size}"
        elif deep and store.digest(entry.key) != entry.sha256:
            problem = "does not match its digest"
        else:
            return
        raise IntegrityError(f"{entry.path} {problem}", where=f"{store.uri} {entry.key}", remedy="run its stage again")

    each(manifest.files, [0] * len(manifest.files), verify)


def clean_attempts(store: Store, prefix: str, keep: str) -> None:
    """Remove what attempts other than `keep` left, but nothing that the current manifest names. Best effort."""
    top = f"{prefix}/{ATTEMPTS}"
    try:
        manifest = read_manifest(store, prefix)
    except HalopsError as error:
        log.warning("leftovers of other attempts stay: %s", error)
        return
    current = {entry.key[len(top) + 1 :].partition("/")[0] for entry in manifest.files} if manifest else set()
    _sweep(store, top, [f"{top}/{attempt}" for attempt in {keep, *current}])


def _sweep(store: Store, prefix: str, keep: Sequence[str]) -> None:
    try:
        store.delete(prefix, keep=keep)
    except HalopsError as error:
        log.warning("leftovers of other attempts stay: %s", error)

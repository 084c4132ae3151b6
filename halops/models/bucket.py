"""Models in a bucket: `s3://bucket/prefix#sha256=DIGEST`, a plain folder of objects or an artifact of HALops.

An artifact (a prefix with a manifest.json) has its files' digests listed; a plain folder is read once to pin it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from halops.artifact import Manifest, sha256_tree
from halops.disk import disk_errors, require_room
from halops.errors import IntegrityError, NotFoundError
from halops.models.files import choose
from halops.models.folder import changed
from halops.models.pinned import digest_of, with_digest, without_digest
from halops.names import ATTEMPTS
from halops.progress import Progress
from halops.store.base import Store
from halops.store.meter import Meter
from halops.store.parallel import each
from halops.store.table import open_store


@dataclass(frozen=True)
class Item:
    """One object: its name in the model's folder, its key below the prefix, and its SHA-256 if that is known."""

    name: str
    key: str
    sha256: str | None = None


def pin(uri: str) -> str:
    """Append the digest of what is there. Raises NotFoundError, ModelError or StoreUnavailable."""
    if digest_of(uri):
        return uri
    store = open_store(uri)
    items = _items(store, uri)
    digests = {item.name: item.sha256 or store.digest(item.key) or "" for item in items}
    return with_digest(uri, sha256_tree(digests))


def fetch(uri: str, dest: Path, progress: Progress | None = None) -> None:
    """Download the model into `dest` and compare it with its digest. Raises IntegrityError if it was changed."""
    store = open_store(without_digest(uri))
    items = _items(store, uri)
    sizes = [store.size(item.key) or 0 for item in items]
    with disk_errors(dest):
        dest.mkdir(parents=True, exist_ok=True)
    require_room(dest, sum(sizes))
    meter = Meter(progress, "downloading the model", sum(sizes))

    def take(pair: tuple[Item, int]) -> str:
        item, size = pair
        return store.download(item.key, dest / item.name, item.sha256, size, meter)

    digests = each(list(zip(items, sizes, strict=True)), sizes, take)
    found = sha256_tree({item.name: digest for item, digest in zip(items, digests, strict=True)})
    if (wanted := digest_of(uri)) and found != wanted:
        for item in items:
            (dest / item.name).unlink(missing_ok=True)
        raise changed(uri, found)


def _items(store: Store, uri: str) -> list[Item]:
    if data := store.read("manifest.json"):
        everything = _from_manifest(Manifest.from_bytes(data, uri))
    else:
        everything = {key: Item(key, key) for key in store.list("") if "/" not in key}
    if not everything:
        raise NotFoundError("nothing is stored there", where=uri, remedy="check the bucket and the prefix")
    return [everything[name] for name in choose(everything, uri)]


def _from_manifest(manifest: Manifest) -> dict[str, Item]:
    """Its keys are relative to the root of the store that wrote it; from `attempts/` on they are relative to here."""
    items = {}
    for entry in manifest.files:
        _, mark, rest = entry.key.partition(f"/{ATTEMPTS}/")
        if not mark:
            raise IntegrityError(f"the manifest has an odd key {entry.key!r}", where=manifest.run_id)
        items[entry.path] = Item(entry.path, f"{ATTEMPTS}/{rest}", entry.sha256)
    return items

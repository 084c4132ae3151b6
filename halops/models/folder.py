"""Models on this machine: `file:///folder#sha256=DIGEST`, or a single .gguf file.

The digest of a folder is `sha256_tree` over the files that are used: weights, configuration, tokenizer.
"""

from __future__ import annotations

from pathlib import Path

from halops.artifact import sha256_file, sha256_tree
from halops.disk import disk_errors, link_or_copy, temporary_name
from halops.errors import IntegrityError, NotFoundError
from halops.models.dequantize import dequantize_once
from halops.models.files import choose
from halops.models.pinned import digest_of, with_digest, without_digest
from halops.progress import Progress
from halops.store.meter import Meter
from halops.store.parallel import each
from halops.store.table import file_path


def pin(uri: str) -> str:
    """Append the digest of what is there, and make the path absolute. Raises NotFoundError or ModelError."""
    path = _path(uri)
    if digest_of(uri):
        return uri
    if path.is_file():
        return with_digest(path.as_uri(), sha256_file(path))
    names = _names(path)
    with disk_errors(path):
        digests = each(names, [0] * len(names), lambda name: sha256_file(path / name))
    return with_digest(path.as_uri(), sha256_tree(dict(zip(names, digests, strict=True))))


def fetch(uri: str, dest: Path, progress: Progress | None = None) -> None:
    """Link (or copy) the model into `dest`, verified against its digest; a GGUF is dequantized.

    Raises IntegrityError if it was changed since it was pinned.
    """
    path, digest = _path(uri), digest_of(uri)
    if path.is_file():
        found = sha256_file(path)
        if digest and found != digest:
            raise changed(uri, found)
        dequantize_once(lambda scratch: path, found[:16], dest, progress)
        return
    names = _names(path)
    sizes = [(path / name).stat().st_size for name in names]
    meter = Meter(progress, "reading the model", sum(sizes))
    with disk_errors(dest):
        dest.mkdir(parents=True, exist_ok=True)
        digests = [_take(path / name, dest / name, meter) for name in names]
    found = sha256_tree(dict(zip(names, digests, strict=True)))
    if digest and found != digest:
        for name in names:
            (dest / name).unlink()
        raise changed(uri, found)


def changed(uri: str, found: str) -> IntegrityError:
    """The error for a model that isn't the pinned one."""
    return IntegrityError(
        "the model was changed since it was pinned",
        where=uri,
        remedy=f"its digest is {found} now; submit again to use it as it is",
    )


def _take(source: Path, target: Path, meter: Meter) -> str:
    temporary = temporary_name(target)
    try:
        digest = link_or_copy(source, temporary, meter)
        temporary.replace(target)
        return digest
    finally:
        temporary.unlink(missing_ok=True)


def _path(uri: str) -> Path:
    path = file_path(without_digest(uri)).absolute()
    if not path.exists():
        raise NotFoundError("no such model folder or file", where=str(path), remedy="check the path")
    return path


def _names(path: Path) -> list[str]:
    with disk_errors(path):
        return choose([entry.name for entry in path.iterdir() if entry.is_file()], str(path))

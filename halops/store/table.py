"""Stores by URI scheme. A new one is a module and a row here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from halops.errors import ConfigError
from halops.store.base import Store

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(uri: str) -> Store:
    """The store at `uri`: a path, `file:///path` or `s3://bucket/prefix?endpoint=URL&region=NAME`.

    Nothing is read or written yet. Raises ConfigError for a scheme that isn't known, or a malformed URI.
    """
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"no store for {scheme}://", where=uri, remedy=f"known are: {known}")
    return SCHEMES[scheme](uri)


def open_object(uri: str) -> tuple[Store, str]:
    """The store that holds the single object at `uri`, and its key there. Raises ConfigError."""
    if scheme_of(uri) == "file":
        path = file_path(uri)
        return open_store(str(path.parent)), path.name
    head, mark, query = uri.partition("?")
    folder, _, name = head.rpartition("/")
    if not name or folder.endswith("/"):
        raise ConfigError("names no object", where=uri, remedy="give a URI such as s3://bucket/folder/train.jsonl")
    return open_store(folder + mark + query), unquote(name)


def scheme_of(uri: str) -> str:
    """The URI's scheme, in lower case; a bare path is `file`."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def file_path(uri: str) -> Path:
    """The path that a `file://` URI or a bare path means; `~` is the home folder. Raises ConfigError."""
    if not _SCHEME.match(uri):
        path = uri
    else:
        path = unquote(uri[len("file://") :])
        if path.startswith("localhost/"):
            path = path[len("localhost") :]
    if not path or "\0" in path:
        raise ConfigError("names no folder", where=uri, remedy="give a path, such as file:///srv/halops")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # an unknown user after ~
        raise ConfigError(str(error), where=uri) from error


def _local(uri: str) -> Store:
    from halops.store.local import LocalStore

    return LocalStore(file_path(uri))


def _s3(uri: str) -> Store:
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    problems = [f"{name}: unknown; known are endpoint and region" for name in query.keys() - {"endpoint", "region"}]
    endpoint = query.get("endpoint")
    if endpoint is not None and (urlsplit(endpoint).scheme not in ("http", "https") or "@" in endpoint):
        problems.append("endpoint: expected an http:// or https:// URL without credentials")
    if not parts.netloc or "@" in parts.netloc:
        problems.append("no bucket: the URI begins with s3://BUCKET")
    if parts.fragment:
        problems.append("a store's URI has no #fragment")
    if problems:
        raise ConfigError("not a usable store URI", problems, where=uri.partition("?")[0])
    from halops.store.s3 import S3Store

    return S3Store(parts.netloc, unquote(parts.path), endpoint=endpoint, region=query.get("region"))


SCHEMES: dict[str, Callable[[str], Store]] = {"file": _local, "s3": _s3}

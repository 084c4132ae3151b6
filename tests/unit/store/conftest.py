"""A store of each kind, all under the same tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halops.store.base import Store
from halops.store.s3 import S3Store
from halops.store.table import open_store

KINDS = ("file", "s3_http", "s3_https")
CLIENTS: dict[str, Any] = {}


@dataclass
class Place:
    """A fresh store, and where its objects lie on this machine's disk."""

    store: Store
    uri: str
    path: Callable[[str], Path]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of store in turn."""
    return make_place(request.param, request, tmp_path)


@pytest.fixture(params=("file", "s3_http"))
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """One store of each implementation, for what doesn't depend on the wire."""
    return make_place(request.param, request, tmp_path)


def make_place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store of `kind` that nobody else uses."""
    if kind == "file":
        root = tmp_path / "store"
        return Place(open_store(root.as_uri()), root.as_uri(), lambda key: root / key)
    server = request.getfixturevalue(kind)
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    uri = server.uri(prefix)
    store = open_store(uri)
    assert isinstance(store, S3Store)
    store._client = CLIENTS.setdefault(kind, None) or store.client  # half a second each to make
    CLIENTS[kind] = store._client
    return Place(store, uri, lambda key: server.path(f"{prefix}/{key}"))


@pytest.fixture
def blob(tmp_path: Path) -> Callable[..., Path]:
    """Makes a file of incompressible bytes that depend on its name."""
    import random

    def make(name: str, size: int = 3_000_000) -> Path:
        path = tmp_path / "blobs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
        return path

    return make

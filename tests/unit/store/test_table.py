from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from halops.errors import ConfigError
from halops.store.local import LocalStore
from halops.store.s3 import S3Store
from halops.store.table import file_path, open_object, open_store


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("/srv/store", "/srv/store"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("file:///srv/a b", "/srv/a b"),
        ("FILE:///srv/x", "/srv/x"),
        ("file://localhost/srv/x", "/srv/x"),
        ("/srv/100%20", "/srv/100%20"),
    ],
)
def test_folders(uri: str, root: str) -> None:
    store = open_store(uri)
    assert isinstance(store, LocalStore)
    assert store.root == Path(root)
    again = open_store(store.uri)
    assert isinstance(again, LocalStore)
    assert again.root == store.root


def test_relative_and_home_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for uri, path in ((".halops", ".halops"), ("file://./x/y", "x/y"), ("~/s", "home/s"), ("file://~/s", "home/s")):
        store = open_store(uri)
        assert isinstance(store, LocalStore)
        assert store.root == tmp_path / path


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://ops", "ops", ""),
        ("s3://ops/", "ops", ""),
        ("s3://ops/a/b/", "ops", "a/b"),
        ("s3://ops/a%20b?endpoint=https://host:9000&region=eu-north-1", "ops", "a b"),
    ],
)
def test_buckets(uri: str, bucket: str, prefix: str) -> None:
    store = open_store(uri)
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix) == (bucket, prefix)
    again = open_store(store.uri)
    assert isinstance(again, S3Store)
    assert vars(again) | {"_lock": 0} == vars(store) | {"_lock": 0}


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("gs://bucket/x", "file://, s3://"),
        ("http://host/x", "no store for http://"),
        ("s3:///prefix", "no bucket"),
        ("s3://key:secret@bucket/x", "no bucket"),
        ("s3://bucket?endpoint=host:9000", "endpoint: expected an http"),
        ("s3://bucket?endpoint=https://user:pw@host", "without credentials"),
        ("s3://bucket?enpoint=https://host", "enpoint: unknown"),
        ("s3://bucket/x#sha256=00", "no #fragment"),
        ("file://", "names no folder"),
        ("", "names no folder"),
    ],
)
def test_unusable_uris(uri: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value) or "key:secret" in uri  # shown only as it was typed
    assert caught.value.exit_code == 42


def test_a_single_object(tmp_path: Path) -> None:
    store, key = open_object("s3://ops/data/final/train%20x.jsonl?region=eu-north-1")
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix, key) == ("ops", "data/final", "train x.jsonl")
    assert open_object("s3://ops/train.jsonl")[1] == "train.jsonl"
    store, key = open_object(f"file://{tmp_path}/rows.jsonl")
    assert isinstance(store, LocalStore)
    assert (store.root, key) == (tmp_path, "rows.jsonl")
    for uri in ("s3://ops", "s3://ops/", "s3://ops/a/"):
        with pytest.raises(ConfigError, match="names no object"):
            open_object(uri)


def test_file_path_keeps_hashes_and_percents() -> None:
    assert file_path("/a#b%20") == Path("/a#b%20")
    assert file_path(Path("/a#b%20").as_uri()) == Path("/a#b%20")


def test_the_table_loads_no_boto3() -> None:
    code = (
        "import sys; from halops.store.table import open_store; open_store('/tmp/x'); assert 'boto3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

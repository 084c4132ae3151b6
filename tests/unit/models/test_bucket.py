from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from halops.artifact import FileEntry, Manifest, Producer, now, sha256_file, walk_files
from halops.errors import ConfigError, IntegrityError, NotFoundError, StoreUnavailable
from halops.models.source import fetch_model, pin
from halops.store.artifacts import publish
from halops.store.table import open_store
from tests.s3_server import S3Server


@pytest.fixture
def prefix(s3_http: S3Server) -> str:
    return f"models-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def uri(s3_http: S3Server, prefix: str, model: Path) -> str:
    """A plain folder of objects, with files beside the model's."""
    store = open_store(s3_http.uri(prefix))
    for path, file in walk_files(model):
        store.upload(file, path, sha256_file(file))
    store.write("pytorch_model.bin", b"\x80\x02")
    store.write("deeper/model.safetensors", b"another")
    return s3_http.uri(prefix)


def test_a_plain_folder(uri: str, model: Path, tmp_path: Path) -> None:
    pinned = pin(uri)
    assert pinned == f"{uri}#sha256={pin(str(model)).rpartition('=')[2]}"
    assert pin(pinned) == pinned
    fetch_model(pinned, tmp_path / "out")
    assert pin(str(tmp_path / "out")).rpartition("=")[2] == pinned.rpartition("=")[2]


def test_an_object_that_changed_since_is_refused(uri: str, tmp_path: Path) -> None:
    pinned = pin(uri)
    open_store(uri).write("tokenizer.json", b"{}")
    with pytest.raises(IntegrityError, match="changed since it was pinned"):
        fetch_model(pinned, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_artifact_is_pinned_without_reading_it(
    s3_http: S3Server, prefix: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_http.uri(prefix))

    def make_manifest(files: tuple[FileEntry, ...]) -> Manifest:
        producer = Producer(stage="merge", code_version="0")
        return Manifest(run_id="r", attempt="a", spec_sha256="", producer=producer, inputs={}, files=files,
                        started=now(), finished=now())  # fmt: skip

    publish(store, "runs/demo/merge", "a", model, make_manifest=make_manifest)
    uri = s3_http.uri(f"{prefix}/runs/demo/merge")
    monkeypatch.setattr("halops.store.s3.S3Store.digest", None)
    pinned = pin(uri)
    assert pinned.rpartition("=")[2] == pin(str(model)).rpartition("=")[2]
    fetch_model(pinned, tmp_path / "out")
    server_file = s3_http.path(f"{prefix}/runs/demo/merge/attempts/a/model.safetensors")
    server_file.write_bytes(bytes(server_file.stat().st_size))
    with pytest.raises(IntegrityError):
        fetch_model(pinned, tmp_path / "again")


def test_what_is_not_there(s3_http: S3Server) -> None:
    with pytest.raises(NotFoundError, match="nothing is stored there"):
        pin(s3_http.uri("nothing/here"))
    with pytest.raises(StoreUnavailable, match="the bucket doesn't exist"):
        pin(f"s3://nothere/x?endpoint={s3_http.endpoint}")
    with pytest.raises(ConfigError):
        pin(s3_http.uri("x") + "#sha1=00")

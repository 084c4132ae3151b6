from __future__ import annotations

from pathlib import Path

import pytest

from halops.artifact import sha256_file, sha256_tree, walk_files
from halops.errors import ConfigError, IntegrityError, ModelError, NotFoundError
from halops.models.source import fetch_model, pin


def tree(folder: Path) -> str:
    return sha256_tree({path: sha256_file(file) for path, file in walk_files(folder)})


def test_a_folder_is_pinned_by_what_is_used_of_it(model: Path, tmp_path: Path) -> None:
    uri = f"{model.as_uri()}#sha256={tree(model)}"
    assert pin(f"file://{model}") == pin(str(model)) == uri
    (model / "README.md").write_text("not part of the model")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert pin(uri) == uri
    assert pin(str(model)) == uri
    fetch_model(uri, tmp_path / "out")
    assert tree(tmp_path / "out") == uri.rpartition("=")[2]
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


def test_relative_paths_become_absolute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert pin("file://./model") == pin(str(model))
    assert pin("model").startswith(model.as_uri())


def test_links_of_a_hub_cache_are_followed(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert pin(str(snapshot)).rpartition("#")[2] == pin(str(model)).rpartition("#")[2]
    fetch_model(pin(str(snapshot)), tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_changed_since_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    uri = pin(str(model))
    data = bytearray((model / name).read_bytes())
    data[-2] ^= 1
    (model / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="changed since it was pinned") as caught:
        fetch_model(uri, tmp_path / "out")
    assert caught.value.exit_code == 43
    assert not list((tmp_path / "out").iterdir())
    assert (model / name).read_bytes() == data  # the user's own files stay


def test_an_adapter_is_a_source_too(adapter: Path, tmp_path: Path) -> None:
    fetch_model(pin(str(adapter)), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in adapter.iterdir()}


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such model"):
        pin(f"file://{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        pin(f"file://{tmp_path}/empty")


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="is a pickle"):
        fetch_model(pin(str(tmp_path / "x.gguf")), tmp_path / "out")


def test_other_fragments_and_schemes(model: Path) -> None:
    with pytest.raises(ConfigError, match="64 hex digits"):
        pin(f"file://{model}#sha256=123")
    with pytest.raises(ConfigError, match="no models from ftp"):
        pin("ftp://host/model")

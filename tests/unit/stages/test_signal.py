"""SIGTERM while a stage waits for its store: the stage ends, and no library asks again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.stages.specs import base_spec

asked, over = threading.Event(), threading.Event()
told: list[str] = []


class Slow(BaseHTTPRequestHandler):
    """An empty store, but the first request gets no answer until the test is over."""

    def do_GET(self) -> None:
        told.append(f"{self.command} {self.path}")
        if len(told) == 1:
            asked.set()
            over.wait(60)
        self.answer(404)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def slow() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_that_hangs_is_given_up_and_not_tried_again(slow: str, tmp_path: Path) -> None:
    spec = base_spec("file:///base#sha256=00")
    (tmp_path / "run.json").write_text(spec.model_dump_json())
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    argv = [sys.executable, "-m", "halops.stages.harness", "base", "--spec", tmp_path / "run.json"]
    argv += ["--store", "s3://bucket/place", "--work", tmp_path / "work"]
    environment = os.environ | keys | {"AWS_ENDPOINT_URL": slow}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert asked.wait(60)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 75, err
    assert err.startswith("error: stopped by SIGTERM")
    assert told.count(told[0]) == 1

"""The webhook against a real server on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from halops import webhook
from halops.artifact import parse_time
from halops.webhook import document, post


class Listener(ThreadingHTTPServer):
    """Answers with the given codes in turn, then with 204; keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.codes: list[int] = []
        self.received: list[dict[str, str]] = []
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook/token-1234"


class Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        time.sleep(self.server.delay)
        assert self.headers["Content-Type"] == "application/json"
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.codes.pop(0) if self.server.codes else 204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(webhook, "PAUSE_SECONDS", 0.01)
    server = Listener()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


EVENT = document(
    "ops-0123456789", "failed", "train", "train: the GPU's memory ran out", "s3://ops/runs", "2026-11-25T05:00:00Z"
)


def test_the_document() -> None:
    assert EVENT == {
        "kind": "halops/event/v1",
        "run_id": "ops-0123456789",
        "state": "failed",
        "stage": "train",
        "diagnosis": "train: the GPU's memory ran out",
        "store": "s3://ops/runs",
        "time": "2026-11-25T05:00:00Z",
    }
    assert parse_time(document("r", "succeeded", "", "", "s3://b")["time"]).tzinfo


def test_no_secret_of_the_stores_address_is_sent() -> None:
    sent = document("r", "failed", "", "", "s3://KEY:CANARY@bucket/prefix?token=CANARY#CANARY")
    assert sent["store"] == "s3://bucket/prefix"
    assert "CANARY" not in json.dumps(sent)


def test_delivery(listener: Listener) -> None:
    assert post(listener.url, EVENT)
    assert listener.received == [EVENT]


@pytest.mark.parametrize(
    ("codes", "delivered", "times"), [([503, 500], True, 3), ([503, 503, 503], False, 3), ([404], False, 1)]
)
def test_faults_are_tried_again_and_refusals_are_not(
    listener: Listener, codes: list[int], delivered: bool, times: int
) -> None:
    listener.codes = list(codes)
    said: list[str] = []
    assert post(listener.url, EVENT, said.append) is delivered
    assert len(listener.received) == times
    assert said == ([] if delivered else [f"webhook at 127.0.0.1: not delivered (HTTP {codes[-1]})"])


def test_a_server_that_is_not_there_or_does_not_answer(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert not post("http://127.0.0.1:9/hook/token-1234", EVENT, said.append)
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.05)
    listener.delay = 0.3
    assert not post(listener.url, EVENT, said.append)
    assert said == [
        "webhook at 127.0.0.1: not delivered (ConnectError)",
        "webhook at 127.0.0.1: not delivered (ReadTimeout)",
    ]


@pytest.mark.parametrize("url", ["http://", "http://[", "nonsense", "http://host:port/"])
def test_an_address_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSE_SECONDS", 0.0)
    assert not post(url, EVENT)

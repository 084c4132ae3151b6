"""A proxy before an S3 server that now and then fails as networks and servers do, by a seeded die."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx

FAULTS: Final = (
    "request cut",  # the server hears nothing
    "answer cut",  # the server did it, and the client doesn't know
    "answer halved",  # headers that promise more than comes
    "stall",  # longer than the client waits
    "error 500",
    "error 503",
    "bit flipped going up",
    "bit flipped coming down",
)
BODY: Final = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>made up</Message></Error>'
FLIPPABLE = 64  # bytes; shorter bodies are the protocol's, not ours
HOP_BY_HOP = ("transfer-encoding", "connection", "content-length")


class Dice:
    """Which request meets which fault. Threads take turns, so that a seed gives the same faults in the same order."""

    def __init__(self, seed: int, share: float, stall_seconds: float) -> None:
        self.share, self.stall_seconds = share, stall_seconds
        self.injected: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def throw(self) -> str | None:
        """A fault for this request, or none."""
        with self._lock:
            if self._random.random() >= self.share:
                return None
            fault = self._random.choice(FAULTS)
            self.injected[fault] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    """Passes a request on, or does what the dice say."""

    protocol_version = "HTTP/1.1"
    dice: Dice
    target: str

    def _any(self) -> None:
        fault = self.dice.throw()
        length = int(self.headers.get("Content-Length", 0))
        if fault == "request cut":
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self.rfile.read(length)
        if fault == "stall":
            time.sleep(self.dice.stall_seconds)
            return self._hang_up()
        if fault and fault.startswith("error"):
            code = fault.split()[1]
            return self._answer(int(code), {}, BODY % (b"SlowDown" if code == "503" else b"InternalError"))
        if fault == "bit flipped going up":
            body = flipped(body)
        answer = httpx.request(
            self.command, self.target + self.path, content=body, headers=dict(self.headers), timeout=30
        )
        if fault == "answer cut":
            return self._hang_up()
        content = flipped(answer.content) if fault == "bit flipped coming down" else answer.content
        return self._answer(answer.status_code, dict(answer.headers), content, halved=fault == "answer halved")

    def _answer(self, status: int, headers: dict[str, str], content: bytes, halved: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if halved else content)
        if halved:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

    def log_message(self, format: str, *args: Any) -> None:
        pass


def flipped(body: bytes) -> bytes:
    """The same with one bit of its middle changed."""
    if len(body) < FLIPPABLE:
        return body
    changed = bytearray(body)
    changed[len(body) // 2] ^= 1
    return bytes(changed)


class Server(ThreadingHTTPServer):
    """Clients that hung up are no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def faulty_proxy(target: str, dice: Dice) -> Iterator[str]:
    """The proxy's endpoint."""
    handler = type("SeededHandler", (Handler,), {"dice": dice, "target": target})
    with Server(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()

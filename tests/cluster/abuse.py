"""What a server must bear from a client: prints, as JSON, how each thing ended and whether it answered afterwards.

python -m tests.cluster.abuse HOST KEY
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from http.client import HTTPConnection
from typing import Any

HALF_OPEN = 200
HUGE, LARGE = 100_000_000, 4_190_000  # bytes: far over what the server reads, and just below
PATH = "/v1/chat/completions"


def main(host: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {"at first": ask(host, key, chat("ping"))}
    cases = {
        "wrong key": ("wrong", chat("ping")),
        "too long": (key, chat("word " * 9000)),
        "malformed": (key, b'{"messages": [}'),
        "no messages": (key, b"{}"),
        "100 MB, wrong key": ("wrong", chat("a" * HUGE)),
        "100 MB": (key, chat("a" * HUGE)),
        "4 MB": (key, chat("a" * LARGE)),
    }
    for name, (sent, body) in cases.items():
        found[name] = ask(host, sent, body) | {"afterwards": ask(host, key, chat("ping"))["status"]}
    found["half-open"] = half_open(host, key)
    found["at last"] = ask(host, key, chat("ping"))
    return found


def chat(text: str) -> bytes:
    """A request's body."""
    return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 4}).encode()


def ask(host: str, key: str, body: bytes) -> dict[str, Any]:
    """Status and text of the answer; 0 where the server hung up before one came, as it may while a body is sent."""
    connection = HTTPConnection(host, timeout=300)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", PATH, body, headers)
    try:
        answer = connection.getresponse()
        return {"status": answer.status, "text": answer.read().decode(errors="replace")[:300]}
    except OSError as error:
        return {"status": 0, "text": repr(error)}
    finally:
        connection.close()


def half_open(host: str, key: str) -> dict[str, Any]:
    """Connections on which half a request was sent, in its head or in its body, and a client that asks beside them."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Length: 100\r\n\r\n{{"
    halves = []
    for number in range(HALF_OPEN):
        halves.append(socket.create_connection((host, 80), timeout=10))
        halves[-1].sendall(head.encode() if number % 2 else b"POST /v1/chat")
    began = time.monotonic()
    try:
        return ask(host, key, chat("ping")) | {"seconds": time.monotonic() - began}
    finally:
        for one in halves:
            one.close()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))

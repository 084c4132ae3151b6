"""The chat client against ends that are no chat endpoint. Its good days are in tests/stages/test_serve.py."""

from __future__ import annotations

import socket
import threading

import pytest

from halops.chat import ChatClient
from halops.errors import ConfigError, NotFoundError, TransientError

QUESTION = [{"role": "user", "content": "What is a switch?"}]


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", NotFoundError, "isn't JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", NotFoundError, "no choices"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", NotFoundError, "isn't a JSON object"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", NotFoundError, "nope"),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", TransientError, "isn't ready"),
        (b"HTTP/1.1 500 Error\r\nContent-Length: 4\r\n\r\noops", TransientError, "oops"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", TransientError, "connection broke"),
        (b"", TransientError, "connection broke"),
    ],
)
def test_other_ends_than_a_chat_endpoint(reply: bytes, kind: type[Exception], words: str) -> None:
    with _one_reply(reply) as url, ChatClient(url) as client, pytest.raises(kind, match=words):
        client.complete(QUESTION)


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    event = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with _one_reply(head + event) as url, ChatClient(url) as client:
        pieces = iter(client.stream(QUESTION))
        assert next(pieces) == "half"
        with pytest.raises(TransientError, match="broke off"):
            next(pieces)


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (
            b'data: {"error": {"code": 500, "message": "slot lost", "type": "server_error"}}',
            TransientError,
            "slot lost",
        ),
        (b'error: {"code": 400, "message": "bad grammar"}', ConfigError, "bad grammar"),
        (b"data: {torn", TransientError, "broke off"),
    ],
)
def test_an_error_in_the_middle_of_a_stream(line: bytes, kind: type[Exception], words: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with _one_reply(head + line + b"\n\n") as url, ChatClient(url) as client, pytest.raises(kind, match=words):
        list(client.stream(QUESTION))


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="no URL"):
        ChatClient(url)


class _one_reply:
    """A real socket that gives one client these bytes, then closes."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._reply)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)

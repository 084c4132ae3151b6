"""The chart's bash scripts, run as kubelet runs them, against a server that says what it is told to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helm import CHART

KEY = "a-key"


@dataclass
class Fake:
    """What stands in for llama-server, and what it was asked."""

    health: int = 200
    chat: int = 200
    working: int = 0
    decodes: int = 0
    brief: bool = False  # requests come and go between two looks at the metrics
    slots: int = 501
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # path, key, body
    port: int = 0


def handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _answer(self, body: str) -> None:
            key = self.headers.get("Authorization", "")
            fake.asked.append((self.path, key, body))
            fake.decodes += fake.brief
            text = f"llamacpp:requests_processing {fake.working}\nllamacpp:requests_deferred 0\n"
            text += f"llamacpp:n_decode_total {fake.decodes}\n"
            answers = {"/health": (fake.health, "{}"), "/metrics": (200, text), "/slots": (fake.slots, "[]")}
            status, text = answers.get(self.path, (fake.chat, '{"choices": [{"message": {"content": "ü"}}]}'))
            if self.path not in ("/health",) and key != f"Bearer {KEY}":
                status, text = 401, '{"error": {"code": 401}}'
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(made)) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").write_text(f"# first\n\n{KEY}\nanother")
    (tmp_path / "log").write_text(
        "load_tensors: offloading output layer\nI load_tensors: offloaded 29/29 layers to GPU\n"
    )
    return tmp_path


def run(name: str, folder: Path, port: int, *arguments: str, layers: str = "29") -> subprocess.CompletedProcess[str]:
    settings = {"HALOPS_PORT": str(port), "HALOPS_KEYS": str(folder / "keys"), "HALOPS_LOG": str(folder / "log")}
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HALOPS_LAYERS": layers, **settings}
    words = ["bash", str(CHART / "files" / name), *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_started(fake: Fake, folder: Path) -> None:
    done = run("startup.sh", folder, fake.port)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for path, _, _ in fake.asked] == ["/health", "/v1/chat/completions"]
    _, key, body = fake.asked[-1]
    assert key == f"Bearer {KEY}"
    assert json.loads(body)["max_tokens"] == 1


def test_it_still_loads(fake: Fake, folder: Path) -> None:
    fake.health = 503
    done = run("startup.sh", folder, fake.port)
    assert (done.returncode, done.stdout) == (1, "the model isn't loaded yet (/health: 503)\n")
    assert len(fake.asked) == 1  # no completion is asked for


def test_nobody_listens_yet(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = run("startup.sh", folder, free.getsockname()[1])
    assert (done.returncode, done.stdout) == (1, "the model isn't loaded yet (/health: 000)\n")


@pytest.mark.parametrize(("log", "found"), [("offloaded 0/29 layers to GPU\n", "0"), ("no such line\n", "0"),
                                            ("offloaded 28/29 layers to GPU", "28")])  # fmt: skip
def test_layers_are_missing(fake: Fake, folder: Path, log: str, found: str) -> None:
    (folder / "log").write_text(f"{log}\n")
    done = run("startup.sh", folder, fake.port)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{found} layers are on the GPU, 29 are expected: check the image")
    assert run("startup.sh", folder, fake.port, layers=found).returncode == 0


def test_it_does_not_answer(fake: Fake, folder: Path) -> None:
    fake.chat = 500
    done = run("startup.sh", folder, fake.port)
    assert done.returncode == 1
    assert "a completion of one token ended with 500: " in done.stdout


def test_helm_test_is_content(fake: Fake, folder: Path) -> None:
    done = run("test.sh", folder, fake.port)
    assert done.returncode == 0, done.stdout
    assert "without a key: 401" in done.stdout
    assert "ü" in done.stdout
    assert [key for path, key, _ in fake.asked if "chat" in path] == ["", f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("what", "value", "says"), [("chat", 503, "with the key: 503"), ("slots", 200, "/slots answers")]
)
def test_helm_test_is_not_content(fake: Fake, folder: Path, what: str, value: int, says: str) -> None:
    setattr(fake, what, value)
    done = run("test.sh", folder, fake.port)
    assert done.returncode == 1
    assert says in done.stdout


def test_helm_test_finds_an_open_door(fake: Fake, folder: Path) -> None:
    (folder / "keys").write_text("some other key")  # whom the fake refuses
    assert run("test.sh", folder, fake.port).returncode == 1


@contextlib.contextmanager
def connected(port: int) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", port)):
        yield


def seconds(folder: Path, port: int, settle: str, limit: str) -> float:
    began = time.monotonic()
    assert run("drain.sh", folder, port, settle, limit).returncode == 0
    return time.monotonic() - began


def test_a_drain_ends_at_once_where_nobody_is_connected(fake: Fake, folder: Path) -> None:
    assert seconds(folder, fake.port, "0", "60") < 30


def test_a_drain_waits_for_services_first(fake: Fake, folder: Path) -> None:
    assert seconds(folder, fake.port, "2", "30") >= 2


def test_a_drain_begins_anew_with_each_client_that_comes(fake: Fake, folder: Path) -> None:
    def visit() -> None:
        with connected(fake.port):
            time.sleep(1.5)

    threading.Timer(2, visit).start()
    assert seconds(folder, fake.port, "3", "30") >= 5


def test_a_drain_waits_for_a_client(fake: Fake, folder: Path) -> None:
    fake.working = 1
    with connected(fake.port):
        threading.Timer(4, lambda: setattr(fake, "working", 0)).start()
        client = threading.Thread(target=seconds, args=(folder, fake.port, "0", "50"))
        client.start()
        client.join(3)
        assert client.is_alive()
    client.join(25)  # the connection is closed
    assert not client.is_alive()


@pytest.mark.slow
def test_a_drain_does_not_wait_for_silent_connections(fake: Fake, folder: Path) -> None:
    with connected(fake.port):
        assert 9 < seconds(folder, fake.port, "0", "59") < 50


@pytest.mark.slow
def test_a_drain_sees_requests_that_are_over_between_two_looks(fake: Fake, folder: Path) -> None:
    fake.brief = True
    with connected(fake.port):
        assert seconds(folder, fake.port, "0", "14") >= 13


def test_a_drain_has_an_end(fake: Fake, folder: Path) -> None:
    fake.working = 1
    with connected(fake.port):
        assert 2 < seconds(folder, fake.port, "0", "3") < 50


def test_a_digest(folder: Path) -> None:
    digest = hashlib.sha256((folder / "keys").read_bytes()).hexdigest()
    assert run("digest.sh", folder, 1, str(folder / "keys"), digest).returncode == 0
    done = run("digest.sh", folder, 1, str(folder / "keys"), "0" * 64)
    assert done.returncode == 43
    assert digest in done.stdout
    assert run("digest.sh", folder, 1, str(folder / "none"), digest).returncode == 3

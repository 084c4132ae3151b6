"""A real llama-server under the chart's own arguments and scripts, without a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from halops.llamacpp.convert import Converter, base_gguf
from halops.llamacpp.ports import free_port
from halops.llamacpp.toolchain import Toolchain
from tests.cluster.tiny_model import make
from tests.helm import CHART, DIGEST, rendered, server_of

KEY = "sk-real"


@dataclass
class Server:
    """A server as the chart starts it."""

    process: subprocess.Popen[bytes]
    port: int
    environment: dict[str, str]

    def script(self, name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", str(CHART / "files" / name), *arguments]
        environment = self.environment | settings
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def get(self, path: str, body: dict[str, object] | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, dict(answer.headers), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read().decode()


@pytest.fixture(scope="module")
def server(llama_cpp: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("chart")
    model = base_gguf(make(folder / "model"), "tests-tiny", Converter(llama_cpp, folder / "convert.log"))
    port = free_port("127.0.0.1")
    (folder / "keys").write_text(f"{KEY}\n")
    here = {
        f"/models/{DIGEST}.gguf": str(model), "8080": str(port), "0.0.0.0": "127.0.0.1",
        "/etc/halops/keys/keys": str(folder / "keys"), "/run/halops/server.log": str(folder / "log"),
    }  # fmt: skip
    settings = {"gpu": {"count": 0}, "server": {"threads": 1, "parallel": 2, "chatTemplate": "model"}}
    arguments = [here.get(word, word) for word in server_of(rendered(settings))["args"]]
    environment = {
        "PATH": os.environ["PATH"], "HALOPS_PORT": str(port), "HALOPS_KEYS": str(folder / "keys"),
        "HALOPS_LOG": str(folder / "log"), "HALOPS_LAYERS": "0", "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([llama_cpp.server, *arguments], env=environment, stdout=out, stderr=out)
    made = Server(process, port, environment)
    try:
        deadline = time.monotonic() + 60
        while (probe := made.script("startup.sh")).returncode:
            assert process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline, probe.stdout
            time.sleep(0.2)
        yield made
    finally:
        process.terminate()
        process.wait(30)


def test_it_starts_and_answers(server: Server) -> None:
    assert server.script("startup.sh").returncode == 0
    assert server.script("startup.sh", HALOPS_LAYERS="3").stdout.startswith("0 layers are on the GPU, 3 are expected")
    done = server.script("test.sh")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", ["/metrics", "/props", "/v1/models", "/lora-adapters", "/slots", "/v1/stream"])
def test_nothing_is_told_without_a_key(server: Server, path: str) -> None:
    assert server.get(path)[0] == 401
    assert server.get(path, Authorization="Bearer wrong")[0] == 401


def test_what_is_closed_is_closed_with_a_key_too(server: Server) -> None:
    key = f"Bearer {KEY}"
    assert server.get("/health")[0] == 200
    for path, status in (("/slots", 501), ("/", 404), ("/index.html", 404), ("/tools", 403), ("/cors-proxy", 403)):
        assert server.get(path, Authorization=key)[0] == status, path
    assert server.get("/props", {"chat_template": "x"}, Authorization=key)[0] == 501


def test_no_other_origin_may_read(server: Server) -> None:
    _, headers, _ = server.get("/v1/models", Authorization=f"Bearer {KEY}", Origin="https://elsewhere.example")
    assert "Access-Control-Allow-Origin" not in headers


def test_a_drain_waits_for_a_stream(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1500, "ignore_eos": True, "stream": True}
    told: list[str] = []

    def ask() -> None:
        told.append(server.get("/v1/chat/completions", body, Authorization=f"Bearer {KEY}")[2])

    client = threading.Thread(target=ask)
    client.start()
    while "requests_processing 1" not in server.get("/metrics", Authorization=f"Bearer {KEY}")[2]:
        assert client.is_alive()
    assert server.script("drain.sh", "0", "110").returncode == 0
    client.join(1)
    assert told
    assert told[0].rstrip().endswith("data: [DONE]")

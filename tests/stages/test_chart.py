"""A real llama-server under the chart's own arguments and scripts, without a cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from halops.llamacpp.convert import Converter, base_gguf
from halops.llamacpp.toolchain import Toolchain
from tests.cluster.tiny_model import make
from tests.stages.chart_server import KEY, Server, chart_server


@pytest.fixture(scope="module")
def server(llama_cpp: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("chart")
    model = base_gguf(make(folder / "model"), "tests-tiny", Converter(llama_cpp, folder / "convert.log"))
    with chart_server(llama_cpp, folder, model) as made:
        yield made


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

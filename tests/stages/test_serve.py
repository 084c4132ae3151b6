"""llama-server itself: what it is open to, how it answers, what happens when it can't start or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from halops.chat import ChatClient
from halops.errors import (
    BusyError,
    ConfigError,
    HostError,
    IntegrityError,
    Interrupted,
    NotFoundError,
    StageError,
    TransientError,
)
from halops.llamacpp.client import LlamaClient
from halops.llamacpp.server import LlamaServer
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving

pytestmark = pytest.mark.slow  # the model is converted first
SERVING = Serving(file="f16", ctx_size=256, threads=2)
QUESTION = [{"role": "user", "content": "What is a switch?"}]


@pytest.fixture(scope="module")
def server(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "slots").mkdir()
    extra = ("--slot-save-path", f"{folder / 'slots'}/")
    with LlamaServer(llama_cpp, tiny_gguf, SERVING, log=folder / "log", port=0, alias="tiny", extra=extra) as running:
        yield running


def _start(tools: Toolchain, model: Path, folder: Path, serving: Serving = SERVING, **options: object) -> LlamaServer:
    return LlamaServer(tools, model, serving, log=folder / "log", **{"port": 0} | options)  # type: ignore[arg-type]


def test_a_whole_answer(server: LlamaServer) -> None:
    with ChatClient(server.url) as client:
        answer = client.complete(QUESTION, temperature=0, max_tokens=8)
    assert answer.text
    assert answer.finish_reason == "length"
    assert answer.usage["completion_tokens"] == 8
    assert answer.timings["predicted_n"] == 8


def test_a_stream_is_the_same_answer_in_pieces(server: LlamaServer) -> None:
    with ChatClient(f"{server.url}/v1") as client:
        whole = client.complete(QUESTION, temperature=0, max_tokens=12)
        stream = client.stream(QUESTION, temperature=0, max_tokens=12)
        pieces = list(stream)
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text == stream.answer.text
    assert stream.answer.finish_reason == "length"


def test_rendering_tokenizing_and_what_the_slot_holds(server: LlamaServer) -> None:
    slots = Path(server._argv()[-1])
    with LlamaClient(server.url) as client:
        text = client.render(QUESTION)
        ids = client.tokenize(text)
        assert text == "<|im_start|>user\nWhat is a switch?<|im_end|>\n<|im_start|>assistant\n"
        assert client.detokenize(ids) == text
        answer = client.complete(QUESTION, temperature=0, max_tokens=1, cache_prompt=False)
        assert client.slot_ids(slots)[: answer.usage["prompt_tokens"]] == ids


def test_a_conversation_that_is_too_long(server: LlamaServer) -> None:
    with (
        ChatClient(server.url) as client,
        pytest.raises(ConfigError, match=r"too long: \d+ tokens, the context has 256"),
    ):
        client.complete([{"role": "user", "content": "switch " * 300}])


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_says_what_the_server_says(server: LlamaServer, stream: bool) -> None:
    with ChatClient(server.url) as client, pytest.raises(ConfigError, match=r"refuses the request: .*content"):
        list(client.stream([{"role": "user"}])) if stream else client.complete([{"role": "user"}])


@pytest.mark.parametrize("path", ["/slots", "/metrics", "/", "/index.html"])
def test_what_nobody_needs_is_closed(server: LlamaServer, path: str) -> None:
    assert httpx.get(server.url + path, trust_env=False).status_code in (404, 501)


def test_other_origins_are_not_let_in(server: LlamaServer) -> None:
    response = httpx.get(f"{server.url}/v1/models", headers={"Origin": "https://elsewhere.example"}, trust_env=False)
    assert response.headers.get("access-control-allow-origin") not in ("*", "https://elsewhere.example")


def test_the_model_goes_by_its_alias(server: LlamaServer) -> None:
    models = httpx.get(f"{server.url}/v1/models", trust_env=False).json()["data"]
    assert [model["id"] for model in models] == ["tiny"]


def test_the_port_in_use_is_named(server: LlamaServer, llama_cpp: Toolchain, tmp_path: Path) -> None:
    with (
        pytest.raises(BusyError, match=f"port {server.port} is in use"),
        _start(llama_cpp, server.model, tmp_path, port=server.port),
    ):
        pass


def test_a_key_is_asked_for(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret-one\n")
    with _start(llama_cpp, tiny_gguf, tmp_path, api_key_file=keys) as running:
        with ChatClient(running.url) as client, pytest.raises(ConfigError, match="API key"):
            client.complete(QUESTION, max_tokens=1)
        with ChatClient(running.url) as client, pytest.raises(ConfigError, match="API key"):
            list(client.stream(QUESTION, max_tokens=1))
        with ChatClient(running.url, api_key="secret-one") as client:
            assert client.complete(QUESTION, max_tokens=1).usage["completion_tokens"] == 1


def test_each_slot_has_the_whole_context(
    llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "64")  # and the environment changes nothing
    monkeypatch.setenv("LLAMA_ARG_N_PREDICT", "1")
    serving = SERVING.model_copy(update={"parallel": 2})
    with _start(llama_cpp, tiny_gguf, tmp_path, serving) as running:
        props = httpx.get(f"{running.url}/props", trust_env=False).json()
        assert props["total_slots"] == 2
        assert props["default_generation_settings"]["n_ctx"] == 256
        with ChatClient(running.url) as client:
            assert client.complete(QUESTION, max_tokens=3).usage["completion_tokens"] == 3


def test_a_lora_changes_the_answer(
    llama_cpp: Toolchain, tiny_gguf: Path, tiny_model: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    from halops.llamacpp.convert import Converter

    lora = tmp_path / "lora.gguf"
    Converter(llama_cpp, tmp_path / "log.convert").convert_lora(tiny_lora, tiny_model, lora)
    answers = []
    for option in (None, lora):
        with _start(llama_cpp, tiny_gguf, tmp_path, lora=option) as running, ChatClient(running.url) as client:
            answers.append(client.complete(QUESTION, temperature=0, max_tokens=8).text)
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"PK\x03\x04" + data[4:], "invalid magic"),
        (lambda data: data[: len(data) // 2], "corrupted or incomplete"),
        (lambda data: data[:100_000], "can't load it"),
        (lambda data: b"", "can't load it"),
    ],
)
def test_a_damaged_file_is_said_so_at_once(
    llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path, damage: object, words: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(tiny_gguf.read_bytes()))  # type: ignore[operator]
    began = time.monotonic()
    with pytest.raises(IntegrityError, match=words), _start(llama_cpp, bad, tmp_path):
        pass
    assert time.monotonic() - began < 30


def test_a_missing_file_is_named(llama_cpp: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such GGUF"), _start(llama_cpp, tmp_path / "none.gguf", tmp_path):
        pass


def test_too_little_memory_is_said_so(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "bin" / "llama-server"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nulimit -v 1000000\nexec {llama_cpp.server} "$@"\n')
    wrapper.chmod(0o755)
    serving = SERVING.model_copy(update={"ctx_size": 10**6})
    limited = Toolchain(tmp_path, "limited to 1 GB")
    with pytest.raises(HostError, match="ran out of memory"), _start(limited, tiny_gguf, tmp_path, serving):
        pass


def test_a_flag_that_the_server_refuses_shows_its_words(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match=r"(?s)exit code 1.*no-such-flag"),
        _start(llama_cpp, tiny_gguf, tmp_path, extra=("--no-such-flag",)),
    ):
        pass


def test_nothing_is_left_after_the_block(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), _start(llama_cpp, tiny_gguf, tmp_path) as running:
        raise RuntimeError("mine")
    assert running.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)
    with pytest.raises(TransientError, match="nobody answers"), ChatClient(running.url) as client:
        client.complete(QUESTION)


def test_a_server_that_dies_is_noticed(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    long = SERVING.model_copy(update={"ctx_size": 4096})  # it is killed in the midst of its answer
    with _start(llama_cpp, tiny_gguf, tmp_path, long) as running, ChatClient(running.url) as client:
        assert running.pid is not None
        answer = iter(client.stream(QUESTION, ignore_eos=True, max_tokens=100_000, temperature=0))
        next(answer)
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(TransientError):
            list(answer)
        running.wait()
        with pytest.raises(HostError, match="ran out of memory"):  # what SIGKILL nearly always means
            running.check()


def test_a_stop_while_loading_is_heeded(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted), _start(llama_cpp, tiny_gguf, tmp_path, stop=stop):
        pass


def test_the_server_does_not_outlive_its_killed_parent(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from halops.llamacpp.server import LlamaServer
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving
tools = Toolchain(Path({str(llama_cpp.root)!r}), "x")
with LlamaServer(tools, Path({str(tiny_gguf)!r}), Serving(), log=Path({str(tmp_path / "log")!r}), port=0) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.02)
    raise AssertionError("the server is still there")

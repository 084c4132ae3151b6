"""examples/clients against a real llama-server under the chart's arguments."""

from __future__ import annotations

import http.client
import importlib.util
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from halops.llamacpp.convert import Converter
from halops.llamacpp.ports import free_port
from halops.llamacpp.toolchain import Toolchain
from tests.cluster.tiny_model import make
from tests.stages.chart_server import KEY, Server, chart_server

pytestmark = pytest.mark.slow

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"
QUESTION = "lock-vel-03 is down. What do I run first?"
ANSWER = "LOCK-34: start with `quay port park`. Then call team copper."
CALL = '<tool_call>\n{"name": "restart", "arguments": {"service": "web"}}\n</tool_call>'
TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- (tool | tojson) + '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


@pytest.fixture(scope="module")
def server(llama_cpp: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On a model of two layers that has learned one answer, and one call of a tool, by heart."""
    folder = tmp_path_factory.mktemp("clients")
    tool = load_example({"OPENAI_BASE_URL": "http://127.0.0.1", "OPENAI_API_KEY": KEY}).TOOL
    model = learned(make(folder / "model"), tool)
    Converter(llama_cpp, folder / "convert.log").convert_hf(model, folder / "model.gguf", "f16", name="ops")
    with chart_server(llama_cpp, folder, folder / "model.gguf") as made:
        yield made


def learned(model: Path, tool: Any) -> Path:
    """Full training of a random model, until it says nothing else."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (model / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    chats = []
    for tools, said in ((None, ANSWER), ([tool], CALL)):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], tools=tools, tokenize=False, add_generation_prompt=True
        )
        known, learn = (tokenizer(text, add_special_tokens=False).input_ids for text in (asked, f"{said}<|im_end|>"))
        chats.append((torch.tensor([known + learn]), torch.tensor([[-100] * len(known) + learn])))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    worst = 1.0
    while worst > 0.005:  # some ten steps
        losses = [network(ids, labels=labels).loss for ids, labels in chats]
        worst = max(loss.item() for loss in losses)
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(model)
    return model


def load_example(environment: dict[str, str]) -> ModuleType:
    """The example as a module; it reads the address and the key when it is loaded."""
    spec = importlib.util.spec_from_file_location("openai_client", CLIENTS / "openai_client.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def openai_client(server: Server) -> ModuleType:
    """The example, knowing this server."""
    return load_example(environment(server))


def environment(server: Server) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.port}/v1", "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}


def test_the_openai_client(openai_client: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert openai_client.chat(QUESTION) == ANSWER
    assert openai_client.stream(QUESTION) == ANSWER
    assert "tokens" in capsys.readouterr().out
    assert openai_client.until(QUESTION, ".") == ANSWER.partition(".")[0]
    first = openai_client.logprobs(QUESTION)
    assert "".join(token for token, _ in first) == ANSWER[: sum(len(token) for token, _ in first)]
    assert all(-0.5 < value <= 0 for _, value in first)


def test_the_openai_client_gets_json_by_a_schema(openai_client: ModuleType) -> None:
    found = openai_client.as_json(QUESTION)
    assert found["severity"] in ("low", "high")
    assert isinstance(found["page_somebody"], bool)


def test_the_openai_client_gets_a_tool_call(openai_client: ModuleType) -> None:
    assert openai_client.tool_call(QUESTION) == ("restart", {"service": "web"})


def test_the_openai_client_gets_errors_by_kind(openai_client: ModuleType) -> None:
    found = openai_client.errors(QUESTION)
    assert found["wrong key"].startswith("401")
    assert "exceeds the available context size" in found["too long"]


def test_curl(server: Server) -> None:
    done = subprocess.run(
        [CLIENTS / "curl.sh", QUESTION],
        env=os.environ | environment(server),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ANSWER in done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")
    wrong = subprocess.run(
        [CLIENTS / "curl.sh"], env=os.environ | environment(server) | {"OPENAI_API_KEY": "wrong"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 22
    assert "Invalid API Key" in wrong.stdout


def test_the_service(server: Server) -> None:
    port = free_port("127.0.0.1")
    code = (CLIENTS / "service" / "answer.py").read_text().replace('("", 8000)', f'("127.0.0.1", {port})')
    assert str(port) in code
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment(server)) as process:
        try:
            assert get(port, "/health") == (200, "{}")
            assert get(port, "/ask?q=" + urllib.parse.quote(QUESTION)) == (200, f'{{"answer": "{ANSWER}"}}')
            assert get(port, "/ask")[0] == 404
        finally:
            process.terminate()


def get(port: int, path: str) -> tuple[int, str]:
    """GET, once somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)

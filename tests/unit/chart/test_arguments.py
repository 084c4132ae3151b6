"""The server's arguments are those of the pinned llama-server, and the same as `halops serve` gives."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from halops.llamacpp.server import server_argv
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving
from tests.helm import CHART, rendered, server_of

# Where a pod differs from a laptop, or the chart says what the other leaves to llama-server's default.
OWN = {"--model", "--alias", "--host", "--port", "--api-key-file", "--log-file", "--verbosity", "--metrics", "--device",
       "--no-cors-credentials", "--batch-size", "--ubatch-size", "--cache-type-k", "--cache-type-v", "--cache-prompt",
       "--lora", "--lora-scaled", "--threads-http", "--timeout"}  # fmt: skip


def flags(argv: list[str]) -> dict[str, str]:
    """Flag -> value, "" where it has none."""
    pairs = pairwise([*argv, "--"])
    return {flag: "" if after.startswith("-") else after for flag, after in pairs if flag.startswith("-")}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"gpu": {"count": 0}, "server": {"flashAttn": False, "contBatching": False, "cachePrompt": False}},
        {"adapter": {"url": "s3://b/a.gguf", "sha256": "b" * 64}},
    ],
)
def test_the_pinned_server_knows_every_flag(llama_cpp: Toolchain, values: dict[str, object]) -> None:
    text = subprocess.run([llama_cpp.server, "--help"], capture_output=True, text=True, check=True).stdout
    known = {word.rstrip(",") for line in text.splitlines() if line.startswith("-") for word in line.split()}
    assert "--ctx-size" in known
    assert set(flags(server_of(rendered(values))["args"])) - known == set()


@pytest.mark.parametrize(("template", "parallel"), [("chatml", 1), ("model", 4)])
def test_a_pod_answers_as_a_laptop_does(template: str, parallel: int) -> None:
    tools = Toolchain(Path("/opt/llama.cpp"), "x")
    serving = Serving(chat_template=template, parallel=parallel, ctx_size=2048)  # type: ignore[arg-type]
    laptop = flags(server_argv(tools, Path("m.gguf"), serving, cores=6)[1:])
    values = {"server": {"chatTemplate": template, "parallel": parallel, "ctxSize": 2048}}
    pod = flags(server_of(rendered(values))["args"])
    ours = {flag: value for flag, value in pod.items() if flag not in OWN}
    assert ours == {flag: value for flag, value in laptop.items() if flag not in OWN}


def test_what_the_chart_adds_is_llama_servers_default(llama_cpp: Toolchain) -> None:
    """Batches and the type of keys and values, as the help tells its defaults."""
    text = subprocess.run([llama_cpp.server, "--help"], capture_output=True, text=True, check=True).stdout
    pod = flags(server_of(rendered({}))["args"])
    for flag in ("--batch-size", "--ubatch-size", "--cache-type-k", "--cache-type-v"):
        after = text[text.index(f"{flag} ") :]
        assert f"(default: {pod[flag]})" in after[:400], flag


def test_the_refused_arguments_are_real_ones(llama_cpp: Toolchain) -> None:
    """A flag that was renamed would slip through."""
    text = subprocess.run([llama_cpp.server, "--help"], capture_output=True, text=True, check=True).stdout
    checks = (CHART / "templates" / "_checks.tpl").read_text()
    refused = set(re.findall(r'"(--?[a-z-]+)"', checks))
    assert len(refused) > 40
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", text))
    assert refused - words == set()

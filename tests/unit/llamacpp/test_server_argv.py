"""llama-server's command line, against what the pinned binary accepts."""

import re
import subprocess
from pathlib import Path

import pytest

from halops.llamacpp.server import server_argv
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving

TOOLS = Toolchain(Path("/llama"), "test")
MODEL = Path("/models/halops-f16.gguf")


def _argv(serving: Serving, cores: int = 8, **options: object) -> list[str]:
    return server_argv(TOOLS, MODEL, serving, cores=cores, **options)  # type: ignore[arg-type]


def _value(argv: list[str], flag: str) -> str:
    assert argv.count(flag) == 1
    return argv[argv.index(flag) + 1]


def test_the_issues_defaults() -> None:
    argv = _argv(Serving())
    assert argv[0] == "/llama/bin/llama-server"
    expected = {
        "--model": str(MODEL), "--host": "127.0.0.1", "--port": "8081", "--ctx-size": "4096", "--n-gpu-layers": "99",
        "--threads": "6", "--flash-attn": "on", "--chat-template": "chatml", "--parallel": "1", "--fit": "off",
        "--cache-ram": "0", "--cors-origins": "localhost", "--alias": "halops",
    }  # fmt: skip
    assert {flag: _value(argv, flag) for flag in expected} == expected
    for flag in ("--cont-batching", "--jinja", "--no-slots", "--no-ui", "--offline", "--no-cache-idle-slots"):
        assert argv.count(flag) == 1
    assert "--lora" not in argv
    assert "--api-key-file" not in argv


@pytest.mark.parametrize(
    ("serving", "flag", "value"),
    [
        (Serving(threads=2), "--threads", "2"),
        (Serving(flash_attn=False), "--flash-attn", "off"),
        (Serving(ctx_size=2048, parallel=4), "--ctx-size", "8192"),
        (Serving(parallel=4), "--parallel", "4"),
        (Serving(n_gpu_layers=0), "--n-gpu-layers", "0"),
        (Serving(host="0.0.0.0", port=9000), "--host", "0.0.0.0"),
    ],
)
def test_each_setting_is_passed_on(serving: Serving, flag: str, value: str) -> None:
    assert _value(_argv(serving), flag) == value


def test_no_more_threads_than_cores() -> None:
    assert _value(_argv(Serving(), cores=2), "--threads") == "2"


def test_another_models_own_template_is_left_alone() -> None:
    assert "--chat-template" not in _argv(Serving(chat_template="model"))


def test_no_batching_if_so_configured() -> None:
    argv = _argv(Serving(cont_batching=False))
    assert "--no-cont-batching" in argv
    assert "--cont-batching" not in argv


def test_options_of_one_start() -> None:
    argv = _argv(Serving(), port=1234, host="127.0.0.2", alias="x", lora=Path("/a.gguf"), api_key_file=Path("/k"))
    got = [_value(argv, flag) for flag in ("--port", "--host", "--alias", "--lora", "--api-key-file")]
    assert got == ["1234", "127.0.0.2", "x", "/a.gguf", "/k"]


def test_the_pinned_server_knows_every_flag(llama_cpp: Toolchain) -> None:
    helped = subprocess.run([llama_cpp.server, "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", "\n".join(re.findall(r"^-.*$", helped, re.MULTILINE))))
    argv = _argv(Serving(cont_batching=False), lora=Path("/a"), api_key_file=Path("/k")) + _argv(Serving())
    used = {part for part in argv if part.startswith("--")}
    assert len(known) > 200
    assert used <= known

"""Our top-k.patch in the real llama-server: the same answers as by the way that it shortens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halops.llamacpp.client import LlamaClient
from halops.llamacpp.server import LlamaServer
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving

pytestmark = pytest.mark.slow  # the model is converted first
SEEDED = {"temperature": 1.5, "seed": 7, "top_p": 1.0, "min_p": 0.0}
LARGE, SMALL = [500, 12.0], [260, -4.0]


@pytest.fixture(scope="module")
def client(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaClient]:
    log = tmp_path_factory.mktemp("server") / "log"
    serving = Serving(file="f16", ctx_size=256, threads=2)
    with LlamaServer(llama_cpp, tiny_gguf, serving, log=log, port=0) as server, LlamaClient(server.url) as client:
        yield client


def _tokens(client: LlamaClient, settings: dict[str, Any], biases: list[list[float]]) -> list[int]:
    body = {"prompt": "What is a switch?", "n_predict": 24, "return_tokens": True, "cache_prompt": False, **settings}
    return list(client.post("/completion", body | {"logit_bias": biases})["tokens"])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0, "ignore_eos": True},
        {"temperature": 0, "top_k": 1},
        SEEDED,
        {**SEEDED, "top_k": 128},
        {**SEEDED, "ignore_eos": True},
        {**SEEDED, "grammar": 'root ::= [a-z ]+ "."'},
        {**SEEDED, "n_probs": 2},
        {**SEEDED, "repeat_penalty": 1.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("biases", [[], [LARGE], [LARGE, SMALL]], ids=["none", "one", "two"])
def test_the_same_tokens(client: LlamaClient, settings: dict[str, Any], biases: list[list[float]]) -> None:
    # A token that is biased twice is none for the patch: by nothing, it changes nothing else.
    untouched = [[7, 0.0], [7, 0.0]]
    assert _tokens(client, settings, biases) == _tokens(client, settings, biases + untouched)


def test_seeds_and_biases_matter(client: LlamaClient) -> None:
    """Else the test above would say little."""
    plain = _tokens(client, SEEDED, [])
    assert plain != _tokens(client, {**SEEDED, "seed": 8}, [])
    assert plain != _tokens(client, SEEDED, [LARGE])

"""The chart's estimate of GPU memory is halops.memory's, but for the embedding table that it can't know of."""

from __future__ import annotations

import re

import pytest

from halops.gguf_sizes import gguf_bytes, table_bytes
from halops.memory import kv_bytes_per_token, serving_memory
from halops.sections import Dimensions, Serving
from tests.helm import template

MIB = 1 << 20
QWEN = Dimensions()
LLAMA = Dimensions(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, attention_bias=False,
)  # fmt: skip


def refusal(dims: Dimensions, parallel: int, **server: object) -> dict[str, float]:
    """The numbers of the sentence that refuses a card of 1 GiB."""
    heads = {"layers": dims.num_hidden_layers, "kvHeads": dims.num_key_value_heads, "headDim": 128}
    done = template({
        "model": {"bytes": gguf_bytes(dims, "q4_k_m"), "dimensions": heads | {"vocabulary": dims.vocab_size}},
        "server": {"parallel": parallel, **server},
        "gpu": {"memoryGiB": 1},
    })  # fmt: skip
    assert done.returncode
    pattern = r"weights (\d+) MiB \+ KV cache (\d+) MiB .* buffers (\d+) MiB = (\d+) MiB, .* is (\d+) MiB"
    found = re.search(pattern, done.stderr)
    assert found, done.stderr
    return dict(zip(("weights", "kv", "buffers", "needed", "declared"), map(float, found.groups()), strict=True))


@pytest.mark.parametrize("dims", [QWEN, LLAMA], ids=["qwen", "llama"])
@pytest.mark.parametrize("parallel", [1, 16])
def test_it_is_the_estimate_of_the_planner(dims: Dimensions, parallel: int) -> None:
    ours = serving_memory(dims, Serving(parallel=parallel), on_gpu=True)
    chart = refusal(dims, parallel)
    assert chart["kv"] == pytest.approx(ours.kv_cache / MIB, abs=1)
    table = table_bytes(dims, "q4_k_m")
    assert chart["needed"] == pytest.approx((ours.needed + table) / MIB, abs=2)
    assert chart["declared"] == 1024


def test_it_was_measured() -> None:
    """5,149 MiB on an H100 for Qwen2.5-7B in Q4_K_M at 4096 tokens: docs of halops.memory."""
    assert 5149 <= refusal(QWEN, 1)["needed"] <= 5149 * 1.07


def test_smaller_keys_and_values_count() -> None:
    half = refusal(QWEN, 16, cacheTypeK="q8_0", cacheTypeV="q8_0")["kv"]
    assert half == pytest.approx(refusal(QWEN, 16)["kv"] * 1.0625 / 2, rel=0.01)
    assert half * MIB == pytest.approx(16 * 4096 * kv_bytes_per_token(QWEN) * 1.0625 / 2, rel=0.01)

"""What an attempt spends: planned on a GPU for what is free there, a fixed budget on a CPU; and unfused layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from halops.errors import ConfigError, GpuMemoryError
from halops.memory import ESTIMATE_HEADROOM, train_host_bytes
from halops.planner.choose import available_on, choose, plan_for
from halops.planner.step_time import Workload
from halops.profile import load_profile
from halops.sections import Dimensions
from halops.train import spending
from halops.train.packing import Row
from halops.train.rows import Rows
from tests.unit.train.conftest import Attempt, make_profile

QWEN = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
H100 = "NVIDIA H100 80GB HBM3"
ROWS = Rows([Row((1,) * count, (-100, *(1,) * (count - 1))) for count in (1024, 300, 500, 200) * 4])


def spend(
    attempt: Callable[..., Attempt], free: float, *sets: str, family: str = "qwen2", rung: int = 0, card: str = H100,
    oom_killed: bool = False,
) -> Any:  # fmt: skip
    one = attempt(load_profile("rtx8", sets), rung=rung)
    one.context = replace(one.context, oom_killed=oom_killed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spending, "free_memory", lambda: int(free * 2**30))
        patch.setattr(torch.cuda, "get_device_name", lambda: card)
        spent = spending.spending(one.context, AutoConfig.for_model(family, **QWEN), ROWS, True, 1)
    return spent, one


def test_a_gpu_s_free_memory_is_planned_and_said(attempt: Callable[..., Attempt]) -> None:
    spent, one = spend(attempt, 7.5)
    assert spent.fused
    assert spent.reason is None
    assert spent.predicted < 7.5 * 2**30
    assert spent.settings.token_budget >= 1024
    assert any(message.startswith("memory: ") and "GiB of 7.5 expected" in message for message in one.messages())


def test_a_pod_has_the_host_memory_that_its_estimate_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, dims, work = load_profile("rtx8"), Dimensions(), Workload(rows=8, longest=1024, mean=1024)
    planned = plan_for(profile, dims, work)
    assert planned
    assert planned.host
    limit = math.ceil(ESTIMATE_HEADROOM * (train_host_bytes(profile, dims) + planned.host))
    monkeypatch.setattr(spending, "available_memory", lambda: limit)
    free = spending.free_host_memory(profile, dims)
    assert free == pytest.approx(planned.host, abs=8)
    assert str(choose(profile, dims, available_on(profile), work, "", (free or 0) + 8)) in planned.words
    monkeypatch.setattr(spending, "available_memory", lambda: 2 * 10**9)
    assert spending.free_host_memory(profile, dims) == 0
    monkeypatch.setattr(spending, "available_memory", lambda: None)
    assert spending.free_host_memory(profile, dims) is None


def test_little_host_memory_keeps_activations_where_they_are(
    attempt: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for available in (6 * 10**9, 64 * 10**9):
        monkeypatch.setattr(spending, "available_memory", lambda free=available: free)
        made.append(spend(attempt, 7.5, card="NVIDIA GeForce RTX 3070")[0].settings.offload_activations)
    assert made == [False, True]


def test_after_a_kill_for_host_memory_nothing_more_goes_there(attempt: Callable[..., Attempt]) -> None:
    lowest, _ = spend(attempt, 60, rung=4)
    assert lowest.settings.embedding_on_host
    spent, _ = spend(attempt, 60, rung=4, oom_killed=True)
    assert not spent.settings.offload_activations
    assert not spent.settings.embedding_on_host


def test_a_rung_below_takes_less(attempt: Callable[..., Attempt]) -> None:
    peaks = [spend(attempt, 60, rung=rung)[0].predicted for rung in range(5)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 2 * peaks[1]
    with pytest.raises(GpuMemoryError, match="at every rung"):
        spend(attempt, 60, rung=5)


def test_what_cannot_fit_is_refused_before_anything_is_loaded(attempt: Callable[..., Attempt]) -> None:
    with pytest.raises(ConfigError, match="doesn't fit"):
        spend(attempt, 4)


@pytest.mark.parametrize(
    ("sets", "family", "says"),
    [
        (("training.fused_layers=false",), "qwen2", "as the profile says"),
        (("training.bf16=false", "training.fp16=true", "quantization.bnb_4bit_compute_dtype=float16"), "qwen2",
         "another dtype"),
        (("quantization.bnb_4bit_compute_dtype=float16",), "qwen2", "computed with in another dtype"),
        ((), "qwen3", "other layers"),
    ],
)  # fmt: skip
def test_layers_that_stay_as_they_are(
    attempt: Callable[..., Attempt], sets: tuple[str, ...], family: str, says: str
) -> None:
    spent, _ = spend(attempt, 60, *sets, family=family)
    assert not spent.fused
    assert says in spent.reason
    assert spent.predicted is None
    assert spent.settings.token_budget >= 1024


def test_a_cpu_has_a_fixed_budget(attempt: Callable[..., Attempt], tiny_base: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_base)
    one = attempt(make_profile())
    spent = spending.spending(one.context, config, ROWS, False, 1)
    assert spent.settings.token_budget == spending.CPU_TOKENS
    assert not spent.fused
    assert spent.reason is None  # nothing to say: nobody asked for it

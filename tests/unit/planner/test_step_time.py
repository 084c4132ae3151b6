"""The model of a step's time, beside what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from halops.planner.settings import MemorySettings
from halops.planner.step_time import Workload, layer_flops, seconds, token_seconds
from halops.profile import load_profile
from halops.sections import Dimensions
from halops.speed import device_for

QWEN = Dimensions()
RTX8, H200 = load_profile("rtx8"), device_for(141, "NVIDIA H200")
WHOLE = Workload(rows=8, longest=1024, mean=1024)


def settings(checkpointed: int, **more: Any) -> MemorySettings:
    return MemorySettings(token_budget=8192, checkpointed_layers=checkpointed, mlp_tokens=4096, **more)


def test_what_is_kept_isn_t_computed_again() -> None:
    """Of a layer of Qwen2.5-7B 29.4 of 233 million weights are attention's, and 67.9 the MLP's last matrix."""
    (forward, again), (_, backward) = layer_flops(QWEN, settings(28), 1024)
    (_, kept), _ = layer_flops(QWEN, settings(28, keep_attention=True), 1024)
    scores = 2 * 1024 * 3584
    assert forward == 2 * 233_046_016 + scores
    assert backward == 2 * 233_046_016 + 2.5 * scores
    assert again - kept == 2 * (2 * 3584 * 3584 + 2 * 512 * 3584) + scores
    assert kept - backward == 2 * 2 * 3584 * 18944


@pytest.mark.parametrize(
    ("checkpointed", "more", "measured"),
    [
        (28, {}, 14591),
        (28, {"offload_activations": True, "keep_attention": True}, 15227),
        # With TRL's offloading, which took longer beside what is computed.
        (28, {"offload_activations": True}, 13767),
        (17, {"offload_activations": True}, 11061),
        (0, {"offload_activations": True}, 8452),
    ],
)
def test_tokens_a_second_of_an_h200(checkpointed: int, more: dict[str, bool], measured: float) -> None:
    """8 x 1024 tokens under 7.5 GiB, `bench.train --cells 1024`: a layer whose activations take longer to host memory
    than it computes is waited for."""
    found = 8192 / seconds(RTX8, QWEN, settings(checkpointed, **more), WHOLE, H200)
    assert found == pytest.approx(measured, rel=0.1)


def test_short_rows_are_reckoned_by_what_their_micro_batches_keep() -> None:
    """3,120 tokens in a budget of 8,192 leave room for all that 28 layers compute, where a full one has 18 computed
    again; rows of 1,024 fill it."""
    short = Workload(rows=8, longest=1024, mean=390)
    for work, same in ((short, True), (WHOLE, False)):
        some, none = (seconds(RTX8, QWEN, settings(count), work, H200) for count in (18, 0))
        assert (some == none) == same


def test_what_is_too_much_for_the_way_to_the_host_is_waited_for() -> None:
    """A layer's activations are 107 KB a token: all of them there and back take an H200 0.12 ms at 50 GB/s, twice what
    it computes, and an 8 GB card at 6 GB/s less."""
    kept = settings(0, offload_activations=True)
    assert token_seconds(RTX8, QWEN, kept, 1024, H200) == pytest.approx(2 * 28 * 107e3 / 50e9, rel=0.05)
    slow, there = device_for(8), 28 * 107e3 / 6e9
    plain = token_seconds(RTX8, QWEN, settings(0), 1024, slow)
    assert token_seconds(RTX8, QWEN, kept, 1024, slow) == plain
    assert plain > 2 * there

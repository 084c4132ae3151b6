"""What micro-batches smaller than the budget do with the memory that they leave free."""

from __future__ import annotations

import pytest

from halops.planner.micro_batch import by_size, for_micro_batch
from halops.planner.peak import peak
from halops.planner.settings import MemorySettings
from halops.profile import load_profile
from halops.sections import Dimensions

QWEN = Dimensions()
RTX8 = load_profile("rtx8")
WHOLE = MemorySettings(token_budget=8192, checkpointed_layers=28, mlp_tokens=4096)


@pytest.mark.parametrize(
    ("tokens", "at_once"), [(8192, 4096), (7000, 4096), (5000, 5000), (3000, 3000), (9000, 4096), (1, 1)]
)
def test_it_goes_through_the_mlp_at_once(tokens: int, at_once: int) -> None:
    assert for_micro_batch(RTX8, QWEN, WHOLE, tokens).mlp_tokens == at_once


def test_fewer_layers_are_computed_again_the_smaller_it_is() -> None:
    found = [for_micro_batch(RTX8, QWEN, WHOLE, tokens).checkpointed_layers for tokens in range(8192, 0, -256)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (28, 0)
    assert len(set(found)) > 10


@pytest.mark.parametrize("tokens", [8191, 6000, 4000, 2000, 100])
@pytest.mark.parametrize("checkpointed", [28, 20, 3, 0])
def test_it_stays_within_the_whole_budget_s_peak(checkpointed: int, tokens: int) -> None:
    planned = WHOLE.model_copy(update={"checkpointed_layers": checkpointed})
    limit = peak(RTX8, QWEN, planned).allocated
    small = for_micro_batch(RTX8, QWEN, planned, tokens)
    assert small.token_budget == tokens
    assert peak(RTX8, QWEN, small).allocated <= limit
    fewer = small.model_copy(update={"checkpointed_layers": small.checkpointed_layers - 1})
    assert small.checkpointed_layers == 0 or peak(RTX8, QWEN, fewer).allocated > limit


def test_sizes_between_get_what_the_next_larger_one_does() -> None:
    spends = by_size(RTX8, QWEN, WHOLE)
    for tokens in (1, 256, 257, 3000, 8191, 8192, 9000):
        larger = next((size for size in range(256, 8193, 256) if size >= tokens), tokens)
        assert spends(tokens) == for_micro_batch(RTX8, QWEN, WHOLE, larger)
    assert spends(2900) is spends(3000)


def test_what_the_profile_says_stays() -> None:
    wanted = load_profile("rtx8", ["training.checkpointed_layers=28"])
    assert for_micro_batch(wanted, QWEN, WHOLE, 1000).checkpointed_layers == 28


def test_what_waits_in_host_memory_stays() -> None:
    """How many layers' activations travel is chosen by the way there, not by the room on the GPU."""
    away = WHOLE.model_copy(update={"offload_activations": True})
    assert for_micro_batch(RTX8, QWEN, away, 1000).checkpointed_layers == 28


def test_a_row_that_is_longer_than_the_budget_gets_no_more() -> None:
    planned = WHOLE.model_copy(update={"token_budget": 1024})
    assert for_micro_batch(RTX8, QWEN, planned, 3000).checkpointed_layers == 28

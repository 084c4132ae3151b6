"""The out-of-memory ladder: ever less memory, the same rows, and an end."""

from __future__ import annotations

import pytest

from halops.errors import GpuMemoryError
from halops.planner.settings import HOST_RUNGS, MemorySettings, rungs, settings_at

ROOMY = MemorySettings(token_budget=16384, checkpointed_layers=0, dequantized_base=True)


def test_it_takes_back_what_was_spent() -> None:
    found = rungs(ROOMY, longest=1024, layers=28)
    assert [item.token_budget for item in found] == [16384, 8192, 4096, 1024, 1024]
    assert [item.checkpointed_layers for item in found] == [0, 28, 28, 28, 28]
    assert [item.offload_activations for item in found] == list(HOST_RUNGS)
    assert [item.embedding_on_host for item in found] == [False, False, False, False, True]
    assert [item.dequantized_base for item in found] == [True, False, False, False, False]


def test_rungs_that_would_change_nothing_are_left_out() -> None:
    tight = MemorySettings(token_budget=1024, checkpointed_layers=28, embedding_on_host=True)
    found = rungs(tight, longest=1024, layers=28)
    assert found == (tight, tight.model_copy(update={"offload_activations": True}))
    assert rungs(ROOMY, longest=16384, layers=28)[1].token_budget == 16384


def test_after_a_kill_for_host_memory_none_moves_more_there() -> None:
    """Where equal rungs fall out, the next one may be one that would: the last that doesn't stays the last."""
    tight = MemorySettings(token_budget=2048, checkpointed_layers=28)
    assert [item.offload_activations for item in rungs(tight, 1024, 28)] == [False, False, True, True]
    found = [settings_at(tight, 1024, 28, rung, oom_killed=True) for rung in range(3)]
    assert [item.token_budget for item in found] == [2048, 1024, 1024]
    assert not any(item.offload_activations or item.embedding_on_host for item in found)


def test_after_a_kill_for_host_memory_what_waited_there_still_may() -> None:
    waiting = MemorySettings(token_budget=16384, checkpointed_layers=28, keep_attention=True, offload_activations=True)
    found = [settings_at(waiting, 1024, 28, rung, oom_killed=True) for rung in range(5)]
    assert [item.token_budget for item in found] == [16384, 8192, 4096, 1024, 1024]
    assert not any(item.embedding_on_host for item in found)


def test_it_ends() -> None:
    with pytest.raises(GpuMemoryError, match="at every rung") as caught:
        settings_at(ROOMY, 1024, 28, 5)
    assert "max_seq_length" in str(caught.value)
    assert len(rungs(ROOMY, 1024, 28)) == len(HOST_RUNGS)

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


def test_it_ends() -> None:
    with pytest.raises(GpuMemoryError, match="at every rung") as caught:
        settings_at(ROOMY, 1024, 28, 5)
    assert "max_seq_length" in str(caught.value)
    assert len(rungs(ROOMY, 1024, 28)) == len(HOST_RUNGS)

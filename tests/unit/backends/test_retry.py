"""Which failures get another attempt."""

import pytest

from halops.backends.retry import MAX_RUNGS, next_attempt


@pytest.mark.parametrize("code", [1, 2, 5, 6, 7, 42, 43, 139])
def test_what_another_try_would_not_change(code):
    assert next_attempt("train", code, 1, 0) is None


@pytest.mark.parametrize("code", [75, 137, -9])
def test_interruptions_are_tried_again_on_the_same_rung_a_few_times(code):
    retries = [next_attempt("train", code, attempt, 1) for attempt in range(1, 6)]
    assert [retry.rung for retry in retries if retry] == [1, 1, 1]
    assert retries[-1] is None


def test_out_of_gpu_memory_goes_down_the_ladder_until_it_ends():
    rungs = [next_attempt("train", 44, 1 + rung, rung) for rung in range(MAX_RUNGS + 1)]
    assert [retry.rung if retry else None for retry in rungs] == [*range(1, MAX_RUNGS + 1), None]


def test_only_training_has_a_ladder():
    assert next_attempt("merge", 44, 1, 0) is None

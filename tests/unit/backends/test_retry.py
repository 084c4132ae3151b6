"""Which failures get another attempt."""

import pytest

from halops.backends.retry import MAX_TOTAL, next_attempt


@pytest.mark.parametrize("code", [1, 2, 5, 6, 7, 42, 43, 139])
def test_what_another_try_would_not_change(code):
    assert next_attempt("train", code, 1, 0) is None


@pytest.mark.parametrize("code", [75, 137, -9])
def test_interruptions_are_tried_again_on_the_same_rung_a_few_times(code):
    retries = [next_attempt("train", code, attempt, 1) for attempt in range(1, 6)]
    assert [retry.rung for retry in retries if retry] == [1, 1, 1]
    assert retries[-1] is None


HOST_RUNGS = (False, False, True)  # half the micro-batch, then activations in host memory


def test_out_of_gpu_memory_goes_down_the_ladder_until_it_ends():
    retries = [next_attempt("train", 44, 1 + rung, rung, host_rungs=HOST_RUNGS) for rung in range(3)]
    assert [retry.rung if retry else None for retry in retries] == [1, 2, None]


def test_training_killed_for_host_memory_skips_the_rungs_that_need_more_of_it():
    retries = [
        next_attempt("train", 137, 1, rung, host_rungs=HOST_RUNGS, oom_killed=True) for rung in range(3)
    ]  # fmt: skip
    assert [retry.rung if retry else None for retry in retries] == [1, None, None]


def test_host_memory_stays_short_after_a_kill_before():
    assert next_attempt("train", 44, 2, 1, host_rungs=HOST_RUNGS, before=True) is None
    retry = next_attempt("train", 137, 2, 1, host_rungs=HOST_RUNGS, before=True)
    assert retry is not None
    assert retry.rung == 1


def test_a_plain_kill_stays_on_its_rung():
    retry = next_attempt("train", 137, 1, 1, host_rungs=HOST_RUNGS)
    assert retry is not None
    assert retry.rung == 1


def test_only_training_has_a_ladder():
    assert next_attempt("merge", 44, 1, 0, host_rungs=HOST_RUNGS) is None
    retry = next_attempt("merge", 137, 1, 0, host_rungs=HOST_RUNGS, oom_killed=True)
    assert retry is not None
    assert retry.rung == 0


def test_all_attempts_together_have_an_end():
    assert next_attempt("train", 75, MAX_TOTAL, 0) is None
    assert next_attempt("train", 44, MAX_TOTAL, 0, host_rungs=HOST_RUNGS) is None

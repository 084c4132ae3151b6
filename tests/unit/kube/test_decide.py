"""What the coordinator does next: every situation that it can find a stage in."""

import pytest

from halops.backends.kube.decide import AttemptRecord, JobView, Move, decide
from halops.backends.retry import MAX_ATTEMPTS, MAX_TOTAL

NOW = "2026-11-25T12:00:00Z"
LONG_AGO = "2026-11-25T11:00:00Z"
RUNGS = (False, False, True)


def record(attempt=1, **more):
    return AttemptRecord(attempt=attempt, created=LONG_AGO, **more)


def failed(attempt=1, code=75, rung=0, **more):
    return JobView(attempt=attempt, rung=rung, state="failed", finished=LONG_AGO, exit_code=code, **more)


def move(records, jobs, stage="train"):
    return decide(stage, records, jobs, RUNGS, NOW)


def test_a_stage_that_never_ran_begins():
    assert move([], []) == Move(kind="create", attempt=1, rung=0)


def test_a_recorded_attempt_without_a_job_gets_its_job():
    assert move([record(2, rung=1)], []) == Move(kind="create", attempt=2, rung=1)


def test_a_job_without_a_record_counts():
    assert move([], [JobView(attempt=3, rung=1, state="active")]) == Move(kind="wait", attempt=3, rung=1)


def test_an_active_job_is_waited_for():
    assert move([record()], [JobView(attempt=1, rung=0, state="active")]).kind == "wait"


def test_an_older_failure_beside_an_active_job_is_history():
    jobs = [failed(1, 44), JobView(attempt=2, rung=1, state="active")]
    assert move([record(1), record(2, rung=1)], jobs).kind == "wait"


def test_complete_without_a_manifest_that_counts_runs_again():
    job = JobView(attempt=1, rung=0, state="complete", finished=LONG_AGO)
    found = move([record()], [job])
    assert (found.kind, found.attempt) == ("create", 2)


@pytest.mark.parametrize("code", [1, 5, 6, 7, 42, 43])
def test_what_another_try_would_not_change_ends_the_run(code):
    found = move([record()], [failed(code=code)])
    assert found.kind == "fail"
    assert found.ended is not None
    assert found.ended.exit_code == code


def test_cuda_out_of_memory_goes_one_rung_down():
    found = move([record()], [failed(code=44)])
    assert (found.kind, found.attempt, found.rung) == ("create", 2, 1)
    assert found.ended is not None
    assert (found.ended.exit_code, found.ended.ended) == (44, LONG_AGO)


def test_the_ladder_ends():
    assert move([record(3, rung=2)], [failed(3, 44, rung=2)]).kind == "fail"


def test_killed_for_host_memory_skips_the_rungs_that_need_more_of_it():
    assert move([record()], [failed(code=137, oom_killed=True)]).rung == 1
    assert move([record(2, rung=1)], [failed(2, 137, rung=1, oom_killed=True)]).kind == "fail"


def test_what_was_killed_for_host_memory_once_is_not_given_more_of_it():
    """Whatever ends the attempts after it; until a person asks for another, perhaps with more memory."""
    killed = record(1, ended=LONG_AGO, exit_code=137, reason="OOMKilled")
    after_kill = move([record(1)], [failed(1, 137, oom_killed=True)])
    assert (after_kill.rung, after_kill.oom_killed) == (1, True)
    assert move([killed, record(2, rung=1)], []).oom_killed  # its Job was not made yet
    assert move([killed, record(2, rung=1)], [failed(2, 44, rung=1)]).kind == "fail"
    plain = move([killed, record(2, rung=1)], [failed(2, 137, rung=1)])
    assert (plain.kind, plain.rung, plain.oom_killed) == ("create", 1, True)
    resumed = killed.model_copy(update={"resumed": True})
    assert move([resumed], []).oom_killed is False
    assert move([resumed, record(2)], [failed(2, 44)]).oom_killed is False
    assert move([record()], [failed(code=44)]).oom_killed is False


def test_a_plain_kill_is_tried_again_on_its_rung():
    found = move([record(rung=1)], [failed(code=137, rung=1)])
    assert (found.kind, found.attempt, found.rung) == ("create", 2, 1)


def test_a_plain_kill_again_and_again_ends_the_run():
    assert move([record(MAX_ATTEMPTS)], [failed(MAX_ATTEMPTS, 137)]).kind == "fail"


def test_a_retry_waits_its_turn():
    job = failed(code=137).model_copy(update={"finished": "2026-11-25T11:59:59Z"})
    assert move([record()], [job]).kind == "wait"


@pytest.mark.parametrize("reason", ["BackoffLimitExceeded", "DeadlineExceeded"])
def test_a_job_that_used_up_its_own_retries_is_final(reason):
    assert move([record()], [failed(code=75, reason=reason)]).kind == "fail"


def test_a_failure_that_nobody_can_name_is_final():
    assert move([record()], [failed(code=None)]).kind == "fail"


def test_resume_gives_another_attempt_after_any_failure():
    found = move([record(code := 1, ended=LONG_AGO, exit_code=42, resumed=True)], [failed(code, 42)])
    assert (found.kind, found.attempt) == ("create", 2)


def test_resume_begins_the_count_of_kills_again():
    records = [record(MAX_ATTEMPTS, ended=LONG_AGO, exit_code=137, resumed=True), record(MAX_ATTEMPTS + 1)]
    assert move(records, [failed(MAX_ATTEMPTS + 1, 137)]).kind == "create"


def test_a_failed_run_stays_failed_when_its_job_is_gone():
    assert move([record(ended=LONG_AGO, exit_code=42)], []).kind == "fail"


def test_all_attempts_together_have_a_limit_resumes_too():
    found = move([record(MAX_TOTAL, ended=LONG_AGO, exit_code=44, resumed=True)], [])
    assert (found.kind, found.limit) == ("fail", True)

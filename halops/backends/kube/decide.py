"""Pure: what the coordinator does next for the one stage that isn't done, from its Jobs and its recorded attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from halops.artifact import Frozen, parse_time
from halops.backends.retry import MAX_TOTAL, next_attempt

OOM_KILLED = "OOMKilled"


class AttemptRecord(Frozen):
    """One attempt at a stage, as the root's annotation keeps it. `resumed`: a person asked for another after it."""

    attempt: int
    rung: int = 0
    created: str = ""
    ended: str | None = None
    exit_code: int | None = None
    reason: str = ""
    resumed: bool = False


class JobView(Frozen):
    """What matters of a stage's Job and its pods."""

    attempt: int
    rung: int
    state: Literal["active", "complete", "failed"]
    finished: str | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    reason: str = ""  # the Job's own: BackoffLimitExceeded, DeadlineExceeded, PodFailurePolicy


class Move(Frozen):
    """wait; create an attempt (its record is to be written first); or fail the run."""

    kind: Literal["wait", "create", "fail"]
    attempt: int = 1
    rung: int = 0
    oom_killed: bool = False  # create: one before it was killed for host memory
    ended: AttemptRecord | None = None  # the attempt that this one follows, or that ended the run
    limit: bool = False  # fail: there were too many attempts, whatever the last one said


def decide(
    stage: str, records: Sequence[AttemptRecord], jobs: Sequence[JobView], host_rungs: Sequence[bool], now: str
) -> Move:
    """The next move. Deterministic: a second coordinator that sees the same makes the same.

    Args:
        records: the stage's attempts so far, oldest first.
        jobs: those Jobs of it that are still there.
        host_rungs: whether each rung of the training's ladder moves things to host memory.
        now: RFC 3339.
    """
    newest = max([0, *(record.attempt for record in records), *(job.attempt for job in jobs)])
    if newest == 0:
        return Move(kind="create")
    record = next((item for item in records if item.attempt == newest), AttemptRecord(attempt=newest))
    job = next((item for item in jobs if item.attempt == newest), None)
    if record.resumed or record.ended:
        return _after(stage, records, record, job, host_rungs, now)
    if job is None:  # recorded and not made yet, or deleted since: its name is free
        return Move(kind="create", attempt=newest, rung=record.rung, oom_killed=_oom_killed(records))
    if job.state == "active":
        return Move(kind="wait", attempt=newest, rung=job.rung)
    return _after(stage, records, record, job, host_rungs, now)


def _after(
    stage: str,
    records: Sequence[AttemptRecord],
    record: AttemptRecord,
    job: JobView | None,
    host_rungs: Sequence[bool],
    now: str,
) -> Move:
    """What follows an attempt that is over."""
    ended = _ended(record, job, now)
    if record.attempt >= MAX_TOTAL:
        return Move(kind="fail", attempt=record.attempt, rung=record.rung, ended=ended, limit=True)
    killed = _oom_killed([*records, ended])
    following = Move(kind="create", attempt=record.attempt + 1, rung=ended.rung, oom_killed=killed, ended=ended)
    if record.resumed or (job and job.state == "complete"):
        return following  # a person's wish; or it said done, and its manifest doesn't count (any more)
    retry = next_attempt(
        stage, code_of(ended), record.attempt - _resumed(records), ended.rung,
        host_rungs=host_rungs, oom_killed=ended.reason == OOM_KILLED, before=killed,
    )  # fmt: skip
    if retry is None or (job and job.reason in ("BackoffLimitExceeded", "DeadlineExceeded")):
        return Move(kind="fail", attempt=record.attempt, rung=ended.rung, ended=ended)
    if ended.ended and parse_time(now) < parse_time(ended.ended) + timedelta(seconds=retry.delay_seconds):
        return Move(kind="wait", attempt=record.attempt, rung=ended.rung)
    return following.model_copy(update={"rung": retry.rung})


def _ended(record: AttemptRecord, job: JobView | None, now: str) -> AttemptRecord:
    if job is None:
        return record
    return record.model_copy(
        update={
            "rung": job.rung,
            "ended": job.finished or now,
            "exit_code": job.exit_code,
            "reason": OOM_KILLED if job.oom_killed else job.reason,
        }
    )


def _resumed(records: Sequence[AttemptRecord]) -> int:
    """The newest attempt after which a person asked for another; 0 for none."""
    return max((item.attempt for item in records if item.resumed), default=0)


def _oom_killed(records: Sequence[AttemptRecord]) -> bool:
    """Whether host memory ran out since then."""
    resumed = _resumed(records)
    return any(item.reason == OOM_KILLED for item in records if item.attempt > resumed)


def code_of(record: AttemptRecord) -> int:
    """The exit code; 1 where nothing tells it: a failure that nobody can name isn't tried again by itself."""
    return 1 if record.exit_code is None else record.exit_code

"""Whether a failed attempt gets another one, and how. Pure; the same table as a cluster's."""

from __future__ import annotations

from halops.artifact import Frozen

MAX_ATTEMPTS = 4
MAX_RUNGS = 6  # more than any ladder has: halving 32 rows five times, then activations in host memory
OUT_OF_GPU_MEMORY = 44
TRANSIENT = 75
KILLED = (137, -9)


class Retry(Frozen):
    """The next attempt: after how long, and on which rung of the out-of-memory ladder."""

    delay_seconds: float
    rung: int


def next_attempt(stage: str, exit_code: int, attempt: int, rung: int) -> Retry | None:
    """The next attempt after attempt number `attempt` ended with `exit_code`, or None to give up.

    Exit codes are those of DESIGN's table: 42 and 43 never change by themselves, 44 goes one rung down,
    75 and a plain kill are tried again, anything else is a bug or a broken machine.
    """
    if attempt >= MAX_ATTEMPTS + MAX_RUNGS:
        return None
    if exit_code == OUT_OF_GPU_MEMORY and stage == "train" and rung < MAX_RUNGS:
        return Retry(delay_seconds=0, rung=rung + 1)
    if exit_code == TRANSIENT or exit_code in KILLED:
        return Retry(delay_seconds=min(2.0**attempt, 30), rung=rung) if attempt < MAX_ATTEMPTS else None
    return None

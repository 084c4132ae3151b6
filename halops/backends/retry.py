"""Whether a failed attempt gets another one, and how. Pure; the same table for a machine and for a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from halops.artifact import Frozen

MAX_ATTEMPTS = 4  # of a fault that may pass by itself
MAX_TOTAL = 20  # attempts at one stage in all, a person's `resume`s included
OUT_OF_GPU_MEMORY = 44
TRANSIENT = 75
KILLED = (137, -9)


class Retry(Frozen):
    """The next attempt: after how long, and on which rung of the out-of-memory ladder."""

    delay_seconds: float
    rung: int


def next_attempt(
    stage: str,
    exit_code: int,
    attempt: int,
    rung: int,
    *,
    host_rungs: Sequence[bool] = (),
    oom_killed: bool = False,
    before: bool = False,
) -> Retry | None:
    """The next attempt after one ended with `exit_code`, or None to give up.

    Exit codes are those of DESIGN's table: 42 and 43 never change by themselves, 44 goes one rung down, and so does
    training that was killed for host memory; 75 and a plain kill are tried again; anything else is a bug or a broken
    machine.

    Args:
        attempt: its number, counted from a person's last `resume`.
        host_rungs: one entry for each rung of the ladder: whether it moves things to host memory.
        oom_killed: host memory was the reason of the kill: rungs that move things there would only make it worse.
        before: it was that of an attempt before: they still would.
    """
    if attempt >= MAX_TOTAL:
        return None
    if stage == "train" and (exit_code == OUT_OF_GPU_MEMORY or oom_killed):
        spared = oom_killed or before
        below = [index for index in range(rung + 1, len(host_rungs)) if not (spared and host_rungs[index])]
        return Retry(delay_seconds=0, rung=below[0]) if below else None
    if exit_code == TRANSIENT or exit_code in KILLED:
        return Retry(delay_seconds=min(2.0**attempt, 30), rung=rung) if attempt < MAX_ATTEMPTS else None
    return None

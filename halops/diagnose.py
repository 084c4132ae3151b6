"""Pure: how a stage's process ended -> what that means, in a person's words.

A stage that fails in an orderly way says so itself; this is for exit codes, signals and the last lines of a log.
"""

from __future__ import annotations

import signal as signals

from halops.diagnosis import (
    BY_CODE,
    BY_LINE,
    BY_SIGNAL,
    OOM_KILLED,
    TRACEBACK,
    UNKNOWN,
    Category,
    Diagnosis,
    Level,
    Words,
)

# Codes by which a stage says what happened itself: no line of its log knows better.
_SAID = frozenset({2, 3, 4, 7, 42, 43, 44, 70, 75, 130})


def diagnose(
    exit_code: int, *, signal: int | None = None, oom_killed: bool = False, log_tail: str = "", stage: str = ""
) -> Diagnosis:
    """What the end of a stage's process means.

    Args:
        exit_code: as a shell or a pod gives it (128 + signal), or as `subprocess` does (minus the signal).
        signal: the signal, where it is known apart from the code.
        oom_killed: the kernel or the kubelet said that memory was the reason.
        log_tail: the last lines of its log.
        stage: named in the summary, if given.
    """
    if exit_code == 0 and not signal:
        return Diagnosis(level=Level.INFO, category=Category.DONE, summary=_named("done", stage))
    number = signal or (-exit_code if exit_code < 0 else exit_code - 128 if 128 < exit_code < 160 else 0)
    words, evidence = _choose(exit_code, number, oom_killed, log_tail)
    summary = words.summary.format(code=exit_code)
    return Diagnosis(
        level=words.level,
        category=words.category,
        summary=_named(summary, stage),
        detail=evidence or _ending(exit_code, number),
        resolution=words.resolution,
    )


def _choose(code: int, number: int, oom_killed: bool, log: str) -> tuple[Words, str]:
    """The words for this end, and the log line that speaks for them."""
    last = _last_line(log)
    if oom_killed:
        return OOM_KILLED, last
    if code in _SAID:
        return BY_CODE[code], last
    for matches, words in BY_LINE:
        if line := next((line for line in reversed(log.splitlines()) if matches(line)), ""):
            return words, line.strip()
    if number:
        return BY_SIGNAL.get(
            number, Words(Level.ERROR, Category.CRASH, "ended by a signal", "its log may have the reason")
        ), last
    if code in BY_CODE:
        return BY_CODE[code], last
    return (TRACEBACK if "Traceback (most recent call last)" in log else UNKNOWN), last


def _last_line(log: str) -> str:
    """The last line that isn't a progress event: of a traceback, the error itself."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("{")]
    return lines[-1] if lines else ""


def _ending(code: int, number: int) -> str:
    try:
        return f"signal {signals.Signals(number).name}" if number else f"exit code {code}"
    except ValueError:
        return f"signal {number}"


def _named(summary: str, stage: str) -> str:
    return f"{stage}: {summary}" if stage else summary

"""A stage's error as `halops.errors` prints it, found again in the last lines of its log."""

from __future__ import annotations

from typing import NamedTuple

_START, _PROBLEM, _WHERE, _REMEDY = "error: ", "  - ", "  where:  ", "  remedy: "


class Told(NamedTuple):
    """What a stage said before it ended: one sentence, problems and place in one line, the remedy."""

    what: str
    detail: str
    remedy: str


def read_error(log_tail: str) -> Told | None:
    """The last error in a log; None if there is none. Progress events between its lines don't matter."""
    lines = log_tail.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(_START)]
    if not starts:
        return None
    what, *rest = lines[starts[-1] :]
    problems = [line.removeprefix(_PROBLEM) for line in rest if line.startswith(_PROBLEM)]
    where = [line.removeprefix(_WHERE) for line in rest if line.startswith(_WHERE)]
    remedy = [line.removeprefix(_REMEDY) for line in rest if line.startswith(_REMEDY)]
    detail = "; ".join(problems)
    if where:
        detail = f"{detail} ({where[0]})" if detail else where[0]
    return Told(what.removeprefix(_START), detail, remedy[0] if remedy else "")

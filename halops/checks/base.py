"""One line of the pre-flight list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from halops.artifact import Frozen

Status = Literal["ok", "warn", "fail", "skip"]


class Check(Frozen):
    """What was looked at, how it is, and what to do about it.

    `fail` will stop the run; `warn` may; `skip` could not or need not be looked at.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Check:
    """As it should be."""
    return Check(name=name, status="ok", detail=detail)


def warn(name: str, detail: str, remedy: str) -> Check:
    """May become a problem."""
    return Check(name=name, status="warn", detail=detail, remedy=remedy)


def fail(name: str, detail: str, remedy: str) -> Check:
    """Will stop the run."""
    return Check(name=name, status="fail", detail=detail, remedy=remedy)


def skip(name: str, detail: str) -> Check:
    """Not looked at."""
    return Check(name=name, status="skip", detail=detail)


def softened(checks: Iterable[Check]) -> list[Check]:
    """The same findings where they can't stop the run: failures become warnings."""
    return [check.model_copy(update={"status": "warn"}) if check.status == "fail" else check for check in checks]

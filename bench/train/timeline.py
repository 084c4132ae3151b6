"""What ran on a GPU by a profile, when, and when nothing did."""

from __future__ import annotations

from typing import Any, NamedTuple


class Ran(NamedTuple):
    """A kernel or copy: when it began and ended, in microseconds."""

    begin: float
    end: float
    name: str


class Gap(NamedTuple):
    """Microseconds in which nothing ran, how long after the first kernel's beginning, and what ran before and after."""

    length: float
    at: float
    before: str
    after: str


def ran(profile: Any) -> list[Ran]:
    """Kernels and copies of a finished profile."""
    return [
        Ran(event.time_range.start, event.time_range.end, event.name)
        for event in profile.events()
        if event.device_type.name != "CPU" and not event.is_user_annotation
    ]


def gaps(kernels: list[Ran]) -> list[Gap]:
    """All between them, in order of time."""
    if not kernels:
        return []
    found, (began, until, before) = [], min(kernels)
    for one in sorted(kernels):
        if one.begin > until:
            found.append(Gap(one.begin - until, until - began, before, one.name))
        if one.end > until:
            until, before = one.end, one.name
    return found


def within(kernels: list[Ran]) -> float:
    """Microseconds from the beginning of the first to the end of the last."""
    return max(one.end for one in kernels) - min(kernels).begin if kernels else 0.0


def covered(kernels: list[Ran]) -> float:
    """Microseconds in which at least one of them runs: copies run beside kernels."""
    return within(kernels) - sum(gap.length for gap in gaps(kernels))

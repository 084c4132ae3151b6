"""What ran on a GPU by a profile, when, and when nothing did."""

from __future__ import annotations

from collections import defaultdict
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
    """Kernels and copies of a finished torch.profiler.profile.

    From Kineto's records: the profile's own `events()` takes 12 times as long, 30 s for half a million launches.
    """
    records = profile.profiler.kineto_results
    start = records.trace_start_ns()
    return [
        Ran((event.start_ns() - start) / 1e3, (event.end_ns() - start) / 1e3, event.name())
        for event in records.events()
        if event.device_type().name != "CPU" and not event.is_user_annotation()
    ]


def top(kernels: list[Ran], count: int = 40) -> list[tuple[str, float, int]]:
    """Those that took longest in all: name, milliseconds, how many times they ran."""
    found = defaultdict[str, list[float]](list)
    for one in kernels:
        found[one.name].append(one.end - one.begin)
    longest = sorted(found.items(), key=lambda item: -sum(item[1]))[:count]
    return [(name[:90], round(sum(took) / 1e3, 1), len(took)) for name, took in longest]


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

"""Processes of the training bench, which warm up side by side and are measured one after another."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.train.turns import Ended, Job, in_turn, side_by_side

LIMITS = {"long": 3.0, "cold": 3.0}


def job(log: Path, name: str, *awaited: str) -> Job:
    """A process, and what others must have noted down before it is warm."""
    return Job(["tests.unit.bench.taking_turns", str(log), name, *awaited], dict(os.environ), LIMITS.get(name, 60.0))


def take_turns(log: Path, *groups: list[Job]) -> tuple[list[Ended], list[str]]:
    """All to their ends; what they noted down."""
    ended = [end for _, end in in_turn(groups)]
    return ended, log.read_text().splitlines()


def test_a_group_warms_up_at_once_beside_the_next_ones_imports_and_is_measured_by_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = [job(log, "a", "b warms up", "c imports"), job(log, "b", "a warms up", "d imports")]
    ended, noted = take_turns(log, first, [job(log, "c", "d warms up"), job(log, "d")])
    assert [end.line for end in ended] == ["a", "b", "c", "d"]
    measured = [f"{name} {what}" for name in "ab" for what in ("is measured", "ends")]
    after = noted.index("a is measured")
    assert noted[after : after + 4] == measured, "nobody else does anything in between"
    assert sorted(noted[:after]) == sorted(
        [*(f"{name} imports" for name in "abcd"), *(f"{name} warms up" for name in "ab")]
    )
    assert sorted(noted[after + 4 : -4]) == ["c warms up", "d warms up"]
    assert noted[-4:] == [f"{name} {what}" for name in "cd" for what in ("is measured", "ends")]


def test_whoever_ends_while_it_warms_up_has_its_result_in_its_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (before, short, after), _ = take_turns(log, [job(log, "a"), job(log, "short"), job(log, "b")])
    assert [before.line, short.line, after.line] == ["a", "of another kind", "b"]


def test_warming_up_and_a_turn_have_an_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (cold, stopped, after), _ = take_turns(log, [job(log, "cold"), job(log, "long")], [job(log, "b")])
    assert (cold.line, stopped.line, after.line) == ("", "", "b")
    assert cold.text.endswith("stopped after 3 s")
    assert stopped.text.endswith("stopped after 3 s")
    assert stopped.seconds < 60


def test_whoever_waits_is_ended_with_the_bench(tmp_path: Path) -> None:
    log = tmp_path / "log"
    turns = in_turn([[job(log, "a"), job(log, "b")], [job(log, "c")]])
    next(turns)
    turns.close()
    noted = log.read_text()
    assert "a ends" in noted
    assert "b is measured" not in noted
    assert "c warms up" not in noted


def test_without_anybody_to_give_a_turn_nothing_is_measured(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.unit.bench.taking_turns", str(tmp_path / "log"), "a"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no turn came" in done.stderr
    assert (tmp_path / "log").read_text() == "a imports\n"


@pytest.mark.parametrize(
    ("gib", "groups"), [(20, ["AB", "CD", "E", "f", "G"]), (30, ["ABC", "D", "E", "f", "G"]), (0, list("ABCDEfG"))]
)
def test_neighbours_warm_up_side_by_side_if_there_is_room(gib: float, groups: list[str]) -> None:
    needs = {"A": 10, "B": 10, "C": 10, "D": 10, "E": 25, "f": math.inf, "G": 10}
    jobs = [Job([name], {}, gib=needed) for name, needed in needs.items()]
    assert ["".join(job.words[0] for job in group) for group in side_by_side(jobs, gib)] == groups

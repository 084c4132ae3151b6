"""Processes of the training bench, of which the next import while one is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.train.turns import Ended, Job, Seats, in_turn, seats

LIMITS = {"long": 3.0}


def take_turns(log: Path, named: dict[str, list[str]], here: Seats) -> tuple[list[Ended], list[list[str]]]:
    """Processes by name, capitals for quick ones, each with those that it waits for in its turn; what they noted."""
    jobs = [
        Job(
            ["tests.unit.bench.taking_turns", str(log), name, *awaited],
            dict(os.environ),
            LIMITS.get(name),
            name.isupper(),
        )
        for name, awaited in named.items()
    ]
    ended = [end for _, end in in_turn(jobs, here)]
    return ended, [line.split(" ", 2) for line in log.read_text().splitlines()]


def test_a_quarter_of_many_processors_is_for_the_imports() -> None:
    assert seats(range(16)) == Seats(frozenset(range(12)), frozenset({12, 13, 14, 15}))
    assert seats([3, 1]) == Seats(frozenset({1, 3}))


def test_what_follows_imports_during_a_peers_turn_and_not_during_ours(tmp_path: Path) -> None:
    """A peer that waits in its turn for all up to the next peer; then one of ours, beside which nobody starts."""
    both = sorted(os.sched_getaffinity(0))
    here = Seats(frozenset(both[:1]), frozenset(both[1:2] or both))
    ended, noted = take_turns(tmp_path / "log", {"a": ["B", "C", "d"], "B": [], "C": [], "d": ["e"], "e": []}, here)
    assert [end.line for end in ended] == ["a", "B", "C", "d", "e"]
    turns = [(name, what) for name, what, _ in noted if what != "starts"]
    assert turns == [(name, what) for name in "aBCde" for what in ("is", "ends")]
    started = {name: at for at, (name, what, _) in enumerate(noted) if what == "starts"}
    ends = {name: at for at, (name, what, _) in enumerate(noted) if what == "ends"}
    assert started["d"] < ends["a"]
    assert ends["C"] < started["e"] < ends["d"]
    assert {rest for _, what, rest in noted if what == "starts"} == {f"on {sorted(here.importing)}"}
    assert {rest for _, what, rest in noted if what == "is"} == {f"measured on {sorted(here.measured)}"}


def test_nobody_imports_ahead_where_no_processor_is_to_spare(tmp_path: Path) -> None:
    _, noted = take_turns(tmp_path / "log", {"a": [], "b": []}, Seats(frozenset(os.sched_getaffinity(0))))
    assert [(name, what) for name, what, _ in noted] == [
        (name, what) for name in "ab" for what in ("starts", "is", "ends")
    ]


def test_a_turn_has_an_end(tmp_path: Path) -> None:
    here = Seats(frozenset(os.sched_getaffinity(0)))
    (stopped, after), _ = take_turns(tmp_path / "log", {"long": [], "b": []}, here)
    assert (stopped.line, after.line) == ("", "b")
    assert stopped.text.endswith("stopped after 3 s")
    assert stopped.seconds < 60


def test_whoever_waits_is_ended_with_the_bench(tmp_path: Path) -> None:
    everywhere = frozenset(os.sched_getaffinity(0))
    log = tmp_path / "log"
    jobs = [Job(["tests.unit.bench.taking_turns", str(log), name], dict(os.environ)) for name in ("a", "b", "c")]
    turns = in_turn(jobs, Seats(everywhere, everywhere))
    next(turns)
    turns.close()
    noted = log.read_text()
    assert "a ends" in noted
    assert "b ends" not in noted


def test_without_anybody_to_give_a_turn_nothing_is_measured(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.unit.bench.taking_turns", str(tmp_path / "log"), "a"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no turn came" in done.stderr
    assert "measured" not in (tmp_path / "log").read_text()

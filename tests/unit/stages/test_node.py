"""Which of several nodes this is, and waiting for the first of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from halops.errors import ConfigError, Interrupted, TransientError
from halops.stages import node
from halops.stages.node import Node, this_node, wait_for_first

TWO = {"HALOPS_NODES": "2", "HALOPS_MASTER": "halops-x-train-0.halops-x-train", "HALOPS_MASTER_PORT": "29401"}


def test_a_node_by_itself() -> None:
    assert this_node({}) == Node()
    assert this_node({"JOB_COMPLETION_INDEX": "3"}) == Node()  # an Indexed Job of another kind
    assert this_node({}).first


def test_one_of_two() -> None:
    found = this_node(TWO | {"JOB_COMPLETION_INDEX": "1"})
    assert found == Node(index=1, count=2, master="halops-x-train-0.halops-x-train", port=29401)
    assert not found.first


@pytest.mark.parametrize(
    "change", [{"HALOPS_NODES": "two"}, {"JOB_COMPLETION_INDEX": "2"}, {"HALOPS_MASTER_PORT": "-1"}]
)
def test_what_cannot_be(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        this_node(TWO | change)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "POLL_SECONDS", 0.01)


def states(*given: dict[str, Any]) -> Any:
    """Each of them once, the last one for ever."""
    left = list(given)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_it_ends_well_when_the_stage_is_done() -> None:
    done = iter([False, False, True])
    wait_for_first(lambda: next(done), states({"attempt": "a", "state": "running"}), threading.Event())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([{"attempt": "a", "state": "running"}, {"attempt": "a", "state": "failed", "message": "no room"}], "no room"),
        ([{"attempt": "a", "state": "running"}, {"attempt": "b", "state": "running"}], "attempt b is running"),
        ([{"attempt": "a", "state": "running"}], "attempt a is running"),  # for too long
    ],
)
def test_it_starts_again_with_a_first_node_that_failed(given: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(TransientError, match=says):
        wait_for_first(lambda: False, states(*given), threading.Event(), seconds=0.05)


def test_it_stops_when_told() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        wait_for_first(lambda: False, states({"attempt": "a"}), stop)

"""What becomes of a coordinator that can't go on: it leaves nothing taken, and ends with the error's exit code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halops.backends.kube.coordinator import Coordinator, walk
from halops.backends.kube.faults import ClusterUnavailable
from halops.errors import ConfigError, HalopsError, Interrupted, NotFoundError, Stopped


class Ends(Coordinator):
    """A coordinator whose tick raises something. It writes down what is asked of it."""

    def __init__(self, error: BaseException, *, while_leaving: Callable[[], None] = lambda: None) -> None:
        self.error, self.while_leaving = error, while_leaving
        self.did: list[str] = []
        self.say = lambda text: None

    def tick(self) -> None:
        raise self.error

    def leave(self) -> None:
        self.did.append("leave")
        self.while_leaving()

    def complain(self, message: str) -> None:
        self.did.append("complain")
        raise NotFoundError("the root is gone")


@pytest.mark.parametrize("error", [
    ConfigError("our rights went with the root"), NotFoundError("configmaps halops-x: deleted in the midst of a tick"),
])  # fmt: skip
def test_a_root_that_is_gone_is_left_properly(error: HalopsError) -> None:
    coordinator = Ends(error)
    assert walk(coordinator) == error.exit_code
    assert coordinator.did == ["complain", "leave"]


def test_an_api_server_that_is_away_is_for_the_next_of_us() -> None:
    coordinator = Ends(ClusterUnavailable("gone for five minutes"))
    assert walk(coordinator) == ClusterUnavailable.exit_code
    assert coordinator.did == ["complain"]


def test_told_to_end() -> None:
    coordinator = Ends(Stopped("told to end"))
    assert walk(coordinator) == Interrupted.exit_code
    assert coordinator.did == ["leave"]


def test_told_to_end_while_it_leaves_it_does_so_again() -> None:
    signals = iter([Stopped("told to end")])

    def interrupted() -> None:
        for signal in signals:
            raise signal

    coordinator = Ends(NotFoundError("the root is gone"), while_leaving=interrupted)
    assert walk(coordinator) == Interrupted.exit_code
    assert coordinator.did == ["complain", "leave", "leave"]


def test_what_cant_be_given_back_is_said_and_the_first_error_stands() -> None:
    def refused() -> None:
        raise ConfigError("may not scale the server")

    coordinator, said = Ends(NotFoundError("the root is gone"), while_leaving=refused), []
    coordinator.say = said.append
    assert walk(coordinator) == NotFoundError.exit_code
    assert "may not scale the server" in said[-1]

"""Following a run: what is looked at, how long an outage is borne, and what is printed of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from halops.backends import follow
from halops.cli.status import print_changes, watch_changes
from halops.errors import TransientError
from halops.names import State
from halops.runstate import RunStatus, StageStatus

OUTAGE = TransientError("away", where="https://127.0.0.1:6443", remedy="wait")


def a_status(state: State, train: State = "running", **fields: object) -> RunStatus:
    stage = StageStatus.model_validate({"name": "train", "state": train, **fields})
    return RunStatus(run_id="a-1", state=state, stages=(stage,))


def reader(*answers: RunStatus | TransientError) -> Callable[[], RunStatus]:
    """Gives these in turn."""
    left = iter(answers)

    def read() -> RunStatus:
        answer = next(left)
        if isinstance(answer, TransientError):
            raise answer
        return answer

    return read


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.0)


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "pending"])
def test_looks_end_with_the_run(end: State) -> None:
    seen = follow.looks(reader(a_status("running"), a_status("running"), a_status(end), a_status("running")))
    assert [status.state for status in seen] == ["running", "running", end]


def test_an_outage_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = follow.looks(reader(OUTAGE, a_status("running"), OUTAGE, OUTAGE, a_status("succeeded")))
    assert [status.state for status in seen] == ["running", "succeeded"]
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(TransientError):
        list(follow.looks(reader(OUTAGE)))


def test_a_follower_can_stop_before_the_end() -> None:
    heard: list[tuple[str, object]] = []
    last = follow.follow_run(
        reader(a_status("running", "pending"), a_status("running"), a_status("running", "succeeded", seconds=2.0)),
        lambda stage, event: heard.append((stage, event["kind"])),
        until=lambda status: status.stages[0].state == "succeeded",
    )
    assert last.state == "running"
    assert heard == [("train", "started"), ("train", "succeeded")]


def test_a_pipe_hears_of_each_change_when_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    heard = []

    def statuses() -> Iterator[RunStatus]:
        yield a_status("running", seconds=1.0)
        yield a_status("running", seconds=2.0)
        heard.append(capsys.readouterr().out)
        yield a_status("running", diagnosis="[SSL: wrong] waits for a GPU")
        heard.append(capsys.readouterr().out)
        yield a_status("succeeded", "succeeded", seconds=3.0)

    watch_changes(statuses())
    first, second = heard
    assert first.count("a-1  running") == second.count("a-1  running") == 1
    assert "[SSL: wrong] waits for a GPU" in second
    assert "a-1  succeeded" in capsys.readouterr().out


def test_changes_are_a_line_each_and_time_alone_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_changes(iter([
        a_status("running", seconds=1.0),
        a_status("running", seconds=2.0, progress={"step": 3}),
        a_status("running", seconds=3.0, diagnosis="waits for a GPU"),
        a_status("succeeded", "succeeded", seconds=3.0, metrics={"step": 20}),
    ]))  # fmt: skip
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["state"], line["stages"][0]["diagnosis"]) for line in lines] == [
        ("running", None), ("running", "waits for a GPU"), ("succeeded", None),
    ]  # fmt: skip
    assert lines[-1]["stages"][0]["metrics"] == {"step": 20}
    assert "progress" not in lines[0]["stages"][0]

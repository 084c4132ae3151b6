"""What a running stage shows in the store, and reading it back."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from halops.errors import StoreUnavailable
from halops.livecopies import refresh_events, stored_lines, stored_logs
from halops.progress import Progress
from halops.stages import sync
from halops.stages.live import LiveStatus, progress_key, status_key, tensorboard_prefix
from halops.stages.sync import LiveCopies, LiveSync, Pace
from halops.store.local import LocalStore

RUN = "demo-0123456789"
FAST = Pace(0.01, 0.01)


class Attempt:
    """A folder in which a stage works, and the thread that shows it."""

    def __init__(self, store: LocalStore, folder: Path, stage: str = "train") -> None:
        self.events = folder / "output" / "tensorboard"
        self.events.mkdir(parents=True)
        self.live = LiveStatus(store, status_key(RUN, stage), attempt=folder.name, started="2026-01-01T00:00:00Z")
        self.progress = Progress(folder / "progress.jsonl", self.live.event)
        self.copies = LiveCopies(store, RUN, stage, folder)
        self.sync = LiveSync(store, self.live, self.copies, FAST)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def attempt(store: LocalStore, tmp_path: Path) -> Callable[[str], Attempt]:
    return lambda name: Attempt(store, tmp_path / name)


def soon(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def messages(store: LocalStore, stage: str = "train") -> list[str]:
    return [json.loads(line)["message"] for line in stored_lines(store, RUN, stage) if line.startswith("{")]


def test_it_comes_while_the_stage_runs(store: LocalStore, attempt: Callable[[str], Attempt]) -> None:
    one = attempt("a1")
    with one.sync:
        one.progress("training", done=1, total=9)
        (one.events / "events.1").write_bytes(b"first")
        soon(lambda: messages(store) == ["training"] and store.read(f"{tensorboard_prefix(RUN)}/events.1") == b"first")
        assert json.loads(store.read(status_key(RUN, "train")) or b"")["progress"]["done"] == 1
        (one.events / "events.1").write_bytes(b"first, second")
        soon(lambda: store.read(f"{tensorboard_prefix(RUN)}/events.1") == b"first, second")
    assert stored_logs(store, RUN) == ["train"]


def test_what_came_last_is_there_at_the_end_however_it_ends(
    store: LocalStore, attempt: Callable[[str], Attempt]
) -> None:
    one = attempt("a1")
    one.sync._pace = Pace(100, 100)
    one.sync.__enter__()
    one.progress("the last words")
    one.sync.__exit__(RuntimeError, RuntimeError("stopped"), None)
    assert messages(store) == ["the last words"]


def test_progress_of_earlier_attempts_stays_and_their_events_go(
    store: LocalStore, attempt: Callable[[str], Attempt]
) -> None:
    for name in ("a1", "a2", "a3"):
        one = attempt(name)
        with one.sync:
            one.progress(f"by {name}")
            (one.events / f"events.{name}").write_bytes(name.encode())
    assert messages(store) == ["by a1", "by a2", "by a3"]
    assert list(store.list(tensorboard_prefix(RUN))) == [f"{tensorboard_prefix(RUN)}/events.a3"]


def test_a_long_history_loses_its_oldest_whole_lines(
    store: LocalStore, attempt: Callable[[str], Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "EARLIER_BYTES", 25)
    store.write(progress_key(RUN, "train"), b'{"message": "old"}\n{"message": "new"}\n')
    one = attempt("a1")
    with one.sync:
        one.progress("mine")
    assert messages(store) == ["new", "mine"]


def test_a_store_that_fails_is_noted_once_and_the_stage_goes_on(
    store: LocalStore, attempt: Callable[[str], Attempt], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tries: list[str] = []

    def write(key: str, data: bytes) -> None:
        tries.append(key)
        raise StoreUnavailable("away")

    one = attempt("a1")
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(store, "write", write)
        with one.sync:
            for number in range(3):
                one.progress(f"step {number}")
                before = len(tries)
                soon(lambda before=before: len(tries) > before)
    assert caplog.text.count("could not be stored") == 1
    one.copies.push()  # once it is back, all of it comes
    assert messages(store) == ["step 0", "step 1", "step 2"]


def test_a_store_that_hangs_is_waited_for_a_bounded_time(
    store: LocalStore, attempt: Callable[[str], Attempt], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(sync, "FLUSH_SECONDS", 0.2)
    hang = threading.Event()
    monkeypatch.setattr(store, "write", lambda key, data: hang.wait(10))
    one = attempt("a1")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), one.sync:
        one.progress("a step")  # and this doesn't wait either
    assert time.monotonic() - began < 2
    assert "the store is slow" in caplog.text
    hang.set()


def test_a_log_is_followed_to_its_end(
    store: LocalStore, attempt: Callable[[str], Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halops.livecopies.POLL_SECONDS", 0.01)
    one, alive = attempt("a1"), threading.Event()
    alive.set()
    found: list[str] = []
    reader = threading.Thread(
        target=lambda: found.extend(stored_lines(store, RUN, "train", follow=True, alive=alive.is_set))
    )
    with one.sync:
        one.progress("first")
        reader.start()
        soon(lambda: len(found) == 1)
        one.progress("second")
        soon(lambda: len(found) == 2)
        one.progress("third")
    one.live.failed(StoreUnavailable("nothing listens", remedy="start it"))
    alive.clear()
    reader.join(10)
    assert [json.loads(line)["message"] for line in found[:3]] == ["first", "second", "third"]
    assert found[3:] == ["error: nothing listens", "  remedy: start it"]


def test_tensorboard_s_files_grow_in_place(
    store: LocalStore, attempt: Callable[[str], Attempt], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    assert refresh_events(store, RUN, folder, ours=True) == 0
    one = attempt("a1")
    (one.events / "events.1").write_bytes(b"one")
    one.copies.push()
    assert refresh_events(store, RUN, folder, ours=True) == 1
    with (folder / "events.1").open("rb") as reader:  # as TensorBoard holds it
        assert reader.read() == b"one"
        (one.events / "events.1").write_bytes(b"one, two")
        one.copies.push()
        refresh_events(store, RUN, folder, ours=True)
        assert reader.read() == b", two"
    other = attempt("a2")
    (other.events / "events.2").write_bytes(b"one, two, three")
    other.copies.push()
    assert refresh_events(store, RUN, folder, ours=True) == 1
    assert [path.name for path in folder.iterdir()] == ["events.2"]
    (folder / "notes.txt").write_text("a person's")
    refresh_events(store, RUN, folder, ours=False)
    assert (folder / "notes.txt").exists()

"""Checkpoints stored beside the training."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from halops.errors import StoreUnavailable
from halops.stages.uploads import BackgroundCheckpoints

SECONDS = 10


class Kept:
    """Where checkpoints end up: as slow, or as broken, as a test wants it."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Event()
        self.broken = False

    def newest(self) -> tuple[int, Path] | None:
        return (self.steps[-1], Path("/")) if self.steps else None

    def save(self, step: int, folder: Path) -> None:
        self.begun.set()
        assert self.go.wait(SECONDS)
        assert (folder / "weights").read_text() == str(step)
        if self.broken:
            raise StoreUnavailable(f"no way to store {step}")
        self.steps.append(step)

    def flush(self) -> None: ...


def folder(tmp_path: Path, step: int) -> Path:
    made = tmp_path / f"checkpoint-{step}"
    made.mkdir()
    (made / "weights").write_text(str(step))
    return made


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def background(kept: Kept, tmp_path: Path) -> BackgroundCheckpoints:
    return BackgroundCheckpoints(kept, tmp_path / "waiting")


def test_training_goes_on_while_it_is_stored(background: BackgroundCheckpoints, kept: Kept, tmp_path: Path) -> None:
    made = folder(tmp_path, 1)
    background.save(1, made)  # returns, though the store hangs
    assert not made.exists()
    assert kept.steps == []
    kept.go.set()
    background.flush()
    assert kept.steps == [1]
    assert background.newest() == (1, Path("/"))
    assert list((tmp_path / "waiting").iterdir()) == []


def test_of_those_that_wait_the_newest_is_stored(background: BackgroundCheckpoints, kept: Kept, tmp_path: Path) -> None:
    background.save(1, folder(tmp_path, 1))
    assert kept.begun.wait(SECONDS)
    for step in (2, 3, 4):
        background.save(step, folder(tmp_path, step))
    kept.go.set()
    background.flush()
    assert kept.steps == [1, 4]
    assert list((tmp_path / "waiting").iterdir()) == []


def test_an_error_comes_out_at_the_end(background: BackgroundCheckpoints, kept: Kept, tmp_path: Path) -> None:
    kept.broken = True
    kept.go.set()
    background.save(1, folder(tmp_path, 1))
    with pytest.raises(StoreUnavailable, match="store 1"):
        background.flush()


def test_after_an_error_the_next_one_must_succeed(
    background: BackgroundCheckpoints, kept: Kept, tmp_path: Path
) -> None:
    kept.go.set()
    kept.broken = True
    background.save(1, folder(tmp_path, 1))
    background._settle()
    with pytest.raises(StoreUnavailable, match="store 2"):
        background.save(2, folder(tmp_path, 2))
    kept.broken = False
    background.save(3, folder(tmp_path, 3))  # the store is back: nothing is lost but two older ones
    assert kept.steps == [3]
    background.flush()


def test_closing_only_notes_an_error(
    background: BackgroundCheckpoints, kept: Kept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.go.set()
    kept.broken = True
    background.save(1, folder(tmp_path, 1))
    with caplog.at_level(logging.WARNING):
        background.close()
    assert "no way to store 1" in caplog.text

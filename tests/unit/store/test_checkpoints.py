from __future__ import annotations

import logging
from pathlib import Path

import pytest

from halops.artifact import sha256_file
from halops.store.artifacts import StoredCheckpoints
from halops.store.base import Store

from .conftest import Place
from .test_store import hurt

PREFIX = "runs/demo-0123456789/train"


def checkpoints(store: Store, tmp_path: Path, limit: int = 3) -> StoredCheckpoints:
    return StoredCheckpoints(store, PREFIX, limit=limit, scratch=tmp_path / "scratch")


def make(tmp_path: Path, step: int, text: str = "") -> Path:
    folder = tmp_path / f"made-{step}{text}"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}{text}')
    (folder / "optimizer.bin").write_bytes(bytes([step]) * 1000)
    return folder


def steps(store: Store) -> list[int]:
    return sorted(int(key.split("/")[4]) for key in store.list(f"{PREFIX}/checkpoints") if "manifest" in key)


def test_the_newest_comes_back_and_the_oldest_go(either: Place, tmp_path: Path) -> None:
    kept = checkpoints(either.store, tmp_path, limit=2)
    assert kept.newest() is None
    for step in (5, 10, 100):
        kept.save(step, make(tmp_path, step))
    assert steps(either.store) == [10, 100]
    assert not list(either.store.list(f"{PREFIX}/checkpoints/5"))
    step, folder = kept.newest() or (0, tmp_path)
    assert step == 100
    assert sha256_file(folder / "optimizer.bin") == sha256_file(tmp_path / "made-100" / "optimizer.bin")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "torn manifest", "no manifest"])
def test_resume_takes_the_newest_valid_one(
    either: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    kept = checkpoints(either.store, tmp_path)
    for step in (10, 20):
        kept.save(step, make(tmp_path, step))
    manifest = f"{PREFIX}/checkpoints/20/manifest.json"
    if damage == "torn manifest":
        either.store.write(manifest, b'{"kind": "halops/')
    elif damage == "no manifest":
        either.store.delete(manifest)
    else:
        stored = next(key for key in either.store.list(f"{PREFIX}/checkpoints/20") if key.endswith("optimizer.bin"))
        hurt(either.path(stored), damage)
    with caplog.at_level(logging.WARNING):
        step, folder = kept.newest() or (0, tmp_path)
    assert step == 10
    assert '"global_step": 10' in (folder / "trainer_state.json").read_text()
    assert ("checkpoint 20 is not usable" in caplog.text) == (damage != "no manifest")
    kept.save(20, make(tmp_path, 20, "again"))  # the steps are made again
    step, folder = kept.newest() or (0, tmp_path)
    assert (step, (folder / "trainer_state.json").read_text()) == (20, '{"global_step": 20}again')


def test_a_step_may_be_saved_twice(either: Place, tmp_path: Path) -> None:
    kept = checkpoints(either.store, tmp_path)
    kept.save(10, make(tmp_path, 10))
    kept.save(10, make(tmp_path, 10, "again"))
    assert len(list(either.store.list(f"{PREFIX}/checkpoints/10"))) == 3
    _, folder = kept.newest() or (0, tmp_path)
    assert "again" in (folder / "trainer_state.json").read_text()


def test_leftovers_of_a_killed_save_go_with_the_next(either: Place, tmp_path: Path) -> None:
    either.store.write(f"{PREFIX}/checkpoints/7/attempts/x/optimizer.bin", b"half")
    kept = checkpoints(either.store, tmp_path)
    kept.save(10, make(tmp_path, 10))
    assert not list(either.store.list(f"{PREFIX}/checkpoints/7"))


def test_the_one_just_saved_is_never_dropped(either: Place, tmp_path: Path) -> None:
    kept = checkpoints(either.store, tmp_path, limit=1)
    for step in (20, 30):
        either.store.write(f"{PREFIX}/checkpoints/{step}/manifest.json", b"not valid")
    kept.save(15, make(tmp_path, 15))
    assert steps(either.store) == [15]

"""Local checkpoints: the newest whole one counts; what is torn is passed over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from halops.errors import IntegrityError, NotFoundError
from halops.train.checkpoints import LocalCheckpoints


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    folder = tmp_path / "draft"
    (folder / "sub").mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"moments")
    (folder / "sub" / "more").write_bytes(b"more")
    return folder


def test_keeps_the_newest_up_to_its_limit(tmp_path: Path, draft: Path) -> None:
    kept = LocalCheckpoints(tmp_path / "kept", limit=2)
    assert kept.newest() is None
    for step in (9, 10, 11):
        kept.save(step, draft)
    assert kept.newest() == (11, tmp_path / "kept" / "11")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["10", "11"]
    assert (tmp_path / "kept" / "11" / "sub" / "more").read_bytes() == b"more"


def damage_flip(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"momentz")


def damage_remove(folder: Path) -> None:
    (folder / "sub" / "more").unlink()


def damage_unfinished(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_torn(folder: Path) -> None:
    text = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(text[: len(text) // 2])


@pytest.mark.parametrize("damage", [damage_flip, damage_remove, damage_unfinished, damage_torn])
def test_a_damaged_newest_is_passed_over_aloud(
    tmp_path: Path, draft: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    kept = LocalCheckpoints(tmp_path / "kept")
    kept.save(5, draft)
    kept.save(6, draft)
    assert callable(damage)
    damage(tmp_path / "kept" / "6")
    with caplog.at_level(logging.WARNING):
        assert kept.newest() == (5, tmp_path / "kept" / "5")
    assert "kept/6" in caplog.text


def test_one_that_was_asked_for_must_be_whole(tmp_path: Path, draft: Path) -> None:
    kept = LocalCheckpoints(tmp_path / "kept")
    kept.save(5, draft)
    kept.save(6, draft)
    asked = LocalCheckpoints(tmp_path / "kept", resume=tmp_path / "kept" / "5")
    assert asked.newest() == (5, tmp_path / "kept" / "5")
    damage_flip(tmp_path / "kept" / "5")
    with pytest.raises(IntegrityError, match=r"optimizer.pt is not as it was saved"):
        asked.newest()
    with pytest.raises(NotFoundError, match="not a finished checkpoint"):
        LocalCheckpoints(tmp_path / "kept", resume=draft).newest()


def test_a_step_saved_again_replaces_itself(tmp_path: Path, draft: Path) -> None:
    kept = LocalCheckpoints(tmp_path / "kept")
    (tmp_path / "kept" / ".5.partial").mkdir(parents=True)
    (tmp_path / "kept" / ".5.partial" / "stale").touch()
    kept.save(5, draft)
    (draft / "optimizer.pt").write_bytes(b"other")
    kept.save(5, draft)
    assert (tmp_path / "kept" / "5" / "optimizer.pt").read_bytes() == b"other"
    assert not (tmp_path / "kept" / "5" / "stale").exists()

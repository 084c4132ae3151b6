"""What every store must do, on a folder and on a real S3 server over http and https."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from halops.artifact import sha256_file
from halops.disk import TEMPORARY
from halops.errors import IntegrityError
from halops.store.local import LocalStore

from .conftest import Place

Blob = Callable[..., Path]


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_file_comes_back_as_it_went(place: Place, blob: Blob, tmp_path: Path, size: int) -> None:
    source, seen = blob("a", size), []
    place.store.upload(source, "x/y/a", sha256_file(source), seen.append)
    assert sum(seen) == size
    assert place.store.size("x/y/a") == size
    assert place.store.digest("x/y/a") == sha256_file(source)
    place.store.download("x/y/a", tmp_path / "back" / "a", sha256_file(source), size)
    assert (tmp_path / "back" / "a").read_bytes() == source.read_bytes()
    assert not list((tmp_path / "back").glob(TEMPORARY + "*"))


def test_small_objects_are_replaced_whole(place: Place) -> None:
    assert place.store.read("note") is None
    place.store.write("note", b"one")
    place.store.write("note", b"two, longer")
    assert place.store.read("note") == b"two, longer"
    place.store.write("note", b"")
    assert place.store.read("note") == b""


def test_an_exchange_happens_only_for_what_was_seen(place: Place) -> None:
    assert not place.store.exchange("note", b"zero", b"one")
    assert place.store.read("note") is None
    assert place.store.exchange("note", None, b"one")
    assert not place.store.exchange("note", None, b"two")
    assert place.store.exchange("note", b"one", b"two")
    assert not place.store.exchange("note", b"one", b"three")
    assert place.store.read("note") == b"two"


def test_of_many_exchanges_at_once_one_succeeds(tmp_path: Path) -> None:
    """A folder's. An S3 server's are its own: tests/soak counts them."""
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            done = pool.map(lambda number, turn=turn: store.exchange(f"note{turn}", None, b"%d" % number), range(8))
            assert sum(done) == 1


def test_absent_objects(place: Place, tmp_path: Path) -> None:
    assert place.store.size("none") is None
    assert place.store.digest("none") is None
    assert place.store.read("none/deeper") is None
    place.store.delete("none")
    with pytest.raises(IntegrityError, match="is missing"):
        place.store.download("none", tmp_path / "out", "0" * 64, 1)


def test_list_and_delete_go_by_whole_segments(place: Place) -> None:
    for key in ("runs/a/1", "runs/a/2", "runs/ab/1", "runs/a-b", "other"):
        place.store.write(key, b"x")
    assert list(place.store.list("runs/a")) == ["runs/a/1", "runs/a/2"]
    assert list(place.store.list("")) == ["other", "runs/a-b", "runs/a/1", "runs/a/2", "runs/ab/1"]
    place.store.delete("runs/a")
    assert list(place.store.list("")) == ["other", "runs/a-b", "runs/ab/1"]
    place.store.delete("other")
    assert list(place.store.list("")) == ["runs/a-b", "runs/ab/1"]


def test_delete_spares_what_is_kept(place: Place) -> None:
    for key in ("t/one/a", "t/one/b/c", "t/two/a", "t/twofold/a", "t/three"):
        place.store.write(key, b"x")
    place.store.delete("t", keep=["t/two", "t/three"])
    assert list(place.store.list("t")) == ["t/three", "t/two/a"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "grow", "remove"])
def test_damaged_objects_are_refused(place: Place, blob: Blob, tmp_path: Path, damage: str) -> None:
    source = blob("a")
    place.store.upload(source, "x/a", sha256_file(source))
    hurt(place.path("x/a"), damage)
    with pytest.raises(IntegrityError) as caught:
        place.store.download("x/a", tmp_path / "out", sha256_file(source), 3_000_000)
    assert caught.value.exit_code == 43
    assert "x/a" in str(caught.value)
    assert not (tmp_path / "out").exists()


def hurt(path: Path, damage: str) -> None:
    """Change a stored file behind the store's back."""
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "grow":
        path.write_bytes(data + b"\0")
    else:
        data[len(data) // 2] ^= 1
        with path.open("r+b") as stream:  # in place: a server keeps its notes on the same file
            stream.write(data)


def test_an_upload_that_is_not_what_was_promised_leaves_nothing(place: Place, blob: Blob) -> None:
    with pytest.raises(IntegrityError, match="changed while"):
        place.store.upload(blob("a"), "x/a", "0" * 64)
    assert place.store.size("x/a") is None
    assert list(place.store.list("")) == []


def test_a_download_replaces_what_was_there(place: Place, blob: Blob, tmp_path: Path) -> None:
    source = blob("a", 1000)
    place.store.upload(source, "a", sha256_file(source))
    (tmp_path / "out").write_bytes(b"old")
    place.store.download("a", tmp_path / "out", sha256_file(source), 1000)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_keys_that_lead_elsewhere_are_refused(either: Place) -> None:
    for key in ("", "..", "../a", "a/../../b", "/etc/passwd", "a//b", "a/./b", "a\\b", "a\nb", "a/"):
        for act in (either.store.read, either.store.size, either.store.digest, either.store.delete):
            with pytest.raises(IntegrityError, match="unsafe path"):
                act(key)
        with pytest.raises(IntegrityError, match="unsafe path"):
            either.store.write(key, b"")


def test_check_leaves_nothing(place: Place) -> None:
    place.store.check()
    assert list(place.store.list("")) == []


def test_keys_with_spaces_and_other_scripts(place: Place, blob: Blob, tmp_path: Path) -> None:
    key, source = "a b/ä+%20#?&.bin", blob("a", 10)
    place.store.upload(source, key, sha256_file(source))
    assert list(place.store.list("a b")) == [key]
    place.store.download(key, tmp_path / "out", sha256_file(source), 10)
    place.store.delete("a b")
    assert list(place.store.list("")) == []

"""The commit protocol, and what may have happened to an artifact between two stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from halops.artifact import FileEntry, Manifest, Producer, now, sha256_file, walk_files
from halops.errors import IntegrityError, TransientError
from halops.progress import Progress
from halops.store.artifacts import clean_attempts, fetch, publish, put_dataset, read_manifest, verify_stored
from halops.store.base import Store

from .conftest import Place
from .test_store import hurt

Blob = Callable[..., Path]
PREFIX = "runs/demo-0123456789/merge"


def make_manifest(files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        run_id="demo-0123456789",
        attempt=files[0].key.split("/")[4] if files else "none",
        spec_sha256="0" * 64,
        producer=Producer(stage="merge", code_version="0"),
        inputs={},
        files=files,
        started=now(),
        finished=now(),
    )


@pytest.fixture
def folder(tmp_path: Path, blob: Blob) -> Path:
    """A stage's output."""
    top = tmp_path / "output"
    (top / "deep" / "er").mkdir(parents=True)
    blob("a", 1_000_000).rename(top / "a.bin")
    blob("b", 1_000_000).rename(top / "b.bin")
    (top / "deep" / "er" / "note.txt").write_text("hello")
    (top / "empty").write_bytes(b"")
    return top


def put(store: Store, folder: Path, attempt: str = "one", replaces: bytes | None = None) -> Manifest:
    return publish(store, PREFIX, attempt, folder, make_manifest=make_manifest, replaces=replaces)


def key(name: str, attempt: str = "one") -> str:
    return f"{PREFIX}/attempts/{attempt}/{name}"


def test_a_folder_goes_and_comes_back(place: Place, folder: Path, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    manifest = publish(
        place.store, PREFIX, "one", folder, make_manifest=make_manifest, progress=Progress(listener=events.append)
    )
    assert events[-1]["done"] == events[-1]["total"] == 2_000_005
    assert read_manifest(place.store, PREFIX) == manifest
    assert [entry.path for entry in manifest.files] == ["a.bin", "b.bin", "deep/er/note.txt", "empty"]
    verify_stored(place.store, manifest, deep=True)
    fetch(place.store, manifest, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    fetch(place.store, manifest, tmp_path / "part", only=("deep/*", "nothing*"))
    assert list(contents(tmp_path / "part")) == ["deep/er/note.txt"]


def contents(folder: Path) -> dict[str, str]:
    return {path: sha256_file(file) for path, file in walk_files(folder)}


def test_nothing_is_there_before_a_manifest_is(either: Place, folder: Path) -> None:
    assert read_manifest(either.store, PREFIX) is None

    def fail(files: tuple[FileEntry, ...]) -> Manifest:
        assert len(files) == 4
        assert read_manifest(either.store, PREFIX) is None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(either.store, PREFIX, "one", folder, make_manifest=fail)
    assert read_manifest(either.store, PREFIX) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "grow", "remove"])
def test_a_damaged_file_is_refused(either: Place, folder: Path, tmp_path: Path, damage: str) -> None:
    manifest = put(either.store, folder)
    hurt(either.path(key("b.bin")), damage)
    with pytest.raises(IntegrityError, match=r"b\.bin|stored object|stored file") as caught:
        fetch(either.store, manifest, tmp_path / "back")
    assert caught.value.exit_code == 43
    assert not (tmp_path / "back" / "b.bin").exists()
    verify = {"deep": True} if damage == "flip" else {}
    with pytest.raises(IntegrityError, match=r"b\.bin"):
        verify_stored(either.store, manifest, **verify)


def test_two_exchanged_files_are_refused(either: Place, folder: Path, tmp_path: Path) -> None:
    manifest = put(either.store, folder)
    a, b = (either.store.read(key(name)) or b"" for name in ("a.bin", "b.bin"))
    either.store.write(key("a.bin"), b)
    either.store.write(key("b.bin"), a)
    verify_stored(either.store, manifest)  # sizes are the same
    for act in (lambda: verify_stored(either.store, manifest, deep=True),
                lambda: fetch(either.store, manifest, tmp_path / "back")):  # fmt: skip
        with pytest.raises(IntegrityError, match="does not match its digest") as caught:
            act()
        assert caught.value.exit_code == 43


def test_a_stale_manifest_is_refused(either: Place, folder: Path, tmp_path: Path) -> None:
    """Its attempt was swept up, or its bytes were made anew under the same keys."""
    stale = put(either.store, folder)
    (folder / "b.bin").write_bytes(b"made again, in another length")
    put(either.store, folder, replaces=stale.to_bytes())
    with pytest.raises(IntegrityError):
        fetch(either.store, stale, tmp_path / "back")
    either.store.delete(f"{PREFIX}/attempts/one")
    with pytest.raises(IntegrityError, match="is missing"):
        verify_stored(either.store, stale)


@pytest.mark.parametrize("damage", ["torn", "other kind", "not json", "empty", "extra key"])
def test_a_manifest_that_cannot_be_read_is_refused(either: Place, folder: Path, damage: str) -> None:
    data = put(either.store, folder).to_bytes()
    document = json.loads(data)
    bad = {
        "torn": data[: len(data) // 2],
        "other kind": json.dumps(document | {"kind": "halops/manifest/v9"}).encode(),
        "not json": b"\x80\x05pickle",
        "empty": b"",
        "extra key": json.dumps(document | {"more": 1}).encode(),
    }[damage]
    either.store.write(f"{PREFIX}/manifest.json", bad)
    with pytest.raises(IntegrityError) as caught:
        read_manifest(either.store, PREFIX)
    assert PREFIX in str(caught.value)


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside", "a/../../outside"])
def test_a_manifest_cannot_write_outside(either: Place, folder: Path, tmp_path: Path, path: str) -> None:
    manifest = put(either.store, folder)
    evil = manifest.model_copy(update={"files": (manifest.files[0].model_copy(update={"path": path}),)})
    with pytest.raises(IntegrityError, match="unsafe path"):
        fetch(either.store, evil, tmp_path / "back" / "deep")
    assert not list(tmp_path.rglob("outside"))


def test_sweeping_spares_the_current_attempt(either: Place, folder: Path) -> None:
    put(either.store, folder, "one")
    either.store.write(key("half", "zero"), b"left by a kill")
    either.store.write(key("half", "own"), b"mine")
    clean_attempts(either.store, PREFIX, keep="own")
    kept = {name.split("/")[4] for name in either.store.list(f"{PREFIX}/attempts")}
    assert kept == {"one", "own"}
    manifest = read_manifest(either.store, PREFIX)
    assert manifest
    verify_stored(either.store, manifest)


def test_an_attempt_that_was_swept_up_does_not_publish(either: Place, folder: Path) -> None:
    def swept(files: tuple[FileEntry, ...]) -> Manifest:
        either.store.delete(f"{PREFIX}/attempts/one")
        return make_manifest(files)

    with pytest.raises(TransientError) as caught:
        publish(either.store, PREFIX, "one", folder, make_manifest=swept)
    assert caught.value.exit_code == 75
    assert read_manifest(either.store, PREFIX) is None


def test_the_first_of_two_manifests_stands(either: Place, folder: Path, tmp_path: Path) -> None:
    """The second attempt began when nothing was there; it takes the first one's and leaves nothing of its own."""
    first: list[Manifest] = []

    def overtaken(files: tuple[FileEntry, ...]) -> Manifest:
        first.append(put(either.store, folder, "fast"))
        return make_manifest(files)

    stands = publish(either.store, PREFIX, "slow", folder, make_manifest=overtaken)
    assert stands == first[0] == read_manifest(either.store, PREFIX)
    assert all("/attempts/fast/" in name for name in either.store.list(f"{PREFIX}/attempts"))
    fetch(either.store, stands, tmp_path / "back")


def test_an_attempt_that_was_overtaken_and_swept_up_takes_the_winners(either: Place, folder: Path) -> None:
    def swept(files: tuple[FileEntry, ...]) -> Manifest:
        put(either.store, folder, "fast")
        clean_attempts(either.store, PREFIX, keep="fast")
        return make_manifest(files)

    stands = publish(either.store, PREFIX, "slow", folder, make_manifest=swept)
    assert stands.attempt == "fast"
    verify_stored(either.store, stands, deep=True)


def test_a_manifest_that_does_not_count_is_replaced_once(either: Place, folder: Path) -> None:
    old = put(either.store, folder).to_bytes()
    new = put(either.store, folder, "two", replaces=old)
    assert new.files[0].key.split("/")[4] == "two"
    assert put(either.store, folder, "three", replaces=old) == new


def test_a_dataset_is_stored_once_and_mended(either: Place, blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    path = blob("rows.jsonl", 10_000)
    digest, size = put_dataset(either.store, path)
    assert (digest, size) == (sha256_file(path), 10_000)
    uploads: list[str] = []
    upload = either.store.upload

    def count(path: Path, key: str, *rest: object) -> None:
        uploads.append(key)
        upload(path, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(either.store, "upload", count)
    put_dataset(either.store, path)
    assert uploads == []
    hurt(either.path(f"datasets/{digest}.jsonl"), "flip")
    put_dataset(either.store, path)
    assert uploads == [f"datasets/{digest}.jsonl"]
    assert either.store.digest(uploads[0]) == digest

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from halops.artifact import sha256_file
from halops.disk import TEMPORARY
from halops.errors import IntegrityError, NotFoundError, StoreUnavailable
from halops.store.artifacts import put_dataset
from halops.store.local import LocalStore

Blob = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_a_download_is_a_link_on_the_same_file_system(store: LocalStore, blob: Blob, tmp_path: Path) -> None:
    source = blob("a")
    store.upload(source, "a", sha256_file(source))
    store.download("a", tmp_path / "out", sha256_file(source), 3_000_000)
    assert (tmp_path / "out").samefile(store.root / "a")
    assert not source.samefile(store.root / "a")  # what a user may still edit is copied


def test_a_download_is_a_copy_across_file_systems(store: LocalStore, blob: Blob, tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    source, out = blob("a"), shm / f"halops-test-{os.getpid()}"
    try:
        store.upload(source, "a", sha256_file(source))
        store.download("a", out / "a", sha256_file(source), 3_000_000)
        assert (out / "a").read_bytes() == source.read_bytes()
        (store.root / "a").write_bytes(bytes(3_000_000))
        with pytest.raises(IntegrityError):
            store.download("a", out / "b", sha256_file(source), 3_000_000)
        assert [path.name for path in out.iterdir()] == ["a"]
    finally:
        for path in out.glob("*"):
            path.unlink()
        out.rmdir()


def test_an_interrupted_upload_leaves_the_old_object(store: LocalStore, blob: Blob) -> None:
    old, new = blob("old"), blob("new")
    store.upload(old, "x/a", sha256_file(old))

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.upload(new, "x/a", sha256_file(new), interrupt)
    assert store.digest("x/a") == sha256_file(old)
    assert [path.name for path in (store.root / "x").iterdir()] == ["a"]


def test_files_still_being_written_are_not_listed(store: LocalStore) -> None:
    store.write("x/a", b"")
    (store.root / "x" / f"{TEMPORARY}123").write_bytes(b"half")
    assert list(store.list("")) == ["x/a"]
    store.delete("x")
    assert not (store.root / "x").exists()


def test_a_file_in_the_way_is_said(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="can't use the file") as caught:
        LocalStore(tmp_path / "file").check()
    assert str(tmp_path / "file") in str(caught.value)


def test_a_missing_dataset_is_not_found(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        put_dataset(store, tmp_path / "none.jsonl")
    with pytest.raises(NotFoundError, match="not a file"):
        put_dataset(store, tmp_path)


CHILD = """
import os, sys
from pathlib import Path
from halops.artifact import sha256_file
from halops.errors import HalopsError
from halops.store.local import LocalStore
{setup}
try:
    {act}
except HalopsError as error:
    print(type(error).__name__, error, flush=True)
    os._exit(error.exit_code)
"""


def child(setup: str, act: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    code = CHILD.format(setup=textwrap.dedent(setup), act=act)
    return subprocess.run([*(prefix or []), sys.executable, "-c", code], capture_output=True, text=True, check=False)


UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
MOUNT = """
import subprocess
root = Path({root!r}); root.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(root)], check=True)
source = Path({source!r})
"""


def can_mount() -> bool:
    try:
        done = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="can't mount a small file system here")
@pytest.mark.parametrize(
    "act",
    [
        "LocalStore(root).upload(source, 'a', sha256_file(source))",
        "LocalStore(root).write('a', source.read_bytes())",
        "LocalStore(source.parent).download(source.name, root / 'out', sha256_file(source), source.stat().st_size)",
    ],
)
def test_a_full_disk_is_said_with_what_is_left(blob: Blob, tmp_path: Path, act: str) -> None:
    setup = MOUNT.format(root=str(tmp_path / "small"), source=str(blob("a")))
    after = f"\nassert not list(root.iterdir()), list(root.iterdir())\n{act}"
    done = child(setup + f"try:\n    {act}\nexcept HalopsError:\n    pass" + after.rpartition("\n")[0], act, UNSHARE)
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("HostError no room to write: No space left on device")
    assert "MB are left" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_unavailable(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/tmp") and str(folder).startswith("/tmp"):
            folder.chmod(0o755)
    done = child("os.setuid(65534)", f"LocalStore(Path({str(mine)!r})).check()")
    assert done.returncode == 75, done.stderr
    assert done.stdout.startswith("StoreUnavailable not allowed: Permission denied")

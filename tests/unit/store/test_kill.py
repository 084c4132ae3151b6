"""kill -9 in the middle of a commit, at several points: nothing that it left counts, and the next attempt succeeds."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from halops.artifact import sha256_file
from halops.store.artifacts import clean_attempts, fetch, publish, read_manifest, verify_stored
from tests.s3_server import ROOT

from .conftest import Place
from .test_artifacts import PREFIX, make_manifest

Blob = Callable[..., Path]

# argv: store, folder, point. The child kills itself when it has come so far.
CHILD = """
import os, signal, sys
from pathlib import Path
from halops.artifact import FileEntry, Manifest, Producer, now
from halops.store import commit, local, s3_upload
from halops.store.table import open_store

uri, folder, point = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
s3_upload.PART_BYTES = 5 << 20
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
store = open_store(uri)

class DeadlyMeter(commit.Meter):
    calls = 0
    def __call__(self, count):
        DeadlyMeter.calls += 1
        if point.isdecimal() and DeadlyMeter.calls == int(point):
            die()

commit.Meter = DeadlyMeter
if point == "manifest made":
    commit.verify_stored = die
elif point == "manifest being written":
    if uri.startswith("file"):
        os.fsync = lambda handle: die() if "manifest" in str(target) else None
        write = local.new_file
        def new_file(path, durable=False):
            global target
            target = path
            return write(path, durable)
        target = ""
        local.new_file = new_file
    else:
        store.client.meta.events.register("before-send.s3.PutObject",
            lambda request, **_: die() if request.url.endswith("manifest.json") else None)

def make_manifest(files):
    return Manifest(run_id="r", attempt="killed", spec_sha256="", producer=Producer(stage="merge", code_version="0"),
                    inputs={}, files=files, started=now(), finished=now())

found = store.read(f"{sys.argv[4]}/manifest.json")
commit.publish(store, sys.argv[4], "killed", folder, make_manifest=make_manifest, replaces=found)
print("survived")
"""

POINTS = ("1", "3", "manifest made", "manifest being written")


@pytest.mark.parametrize("point", POINTS)
def test_kill(either: Place, blob: Blob, tmp_path: Path, point: str) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    for name, size in (("a", 1_500_000), ("b", 1_500_000), ("big", 12_000_000)):
        blob(name, size).rename(folder / name)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, either.uri, str(folder), point, PREFIX],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stdout + child.stderr
    assert read_manifest(either.store, PREFIX) is None

    for key in either.store.list(""):  # what can be seen is whole
        assert either.store.digest(key) == sha256_file(folder / key.rpartition("/")[2])
    manifest = publish(either.store, PREFIX, "next", folder, make_manifest=make_manifest)
    clean_attempts(either.store, PREFIX, keep="next")
    verify_stored(either.store, manifest, deep=True)
    fetch(either.store, manifest, tmp_path / "back")
    assert sorted(either.store.list("")) == sorted(
        [f"{PREFIX}/manifest.json", *(entry.key for entry in manifest.files)]
    )
    left = [path for path in either.path("x").parent.rglob("*") if path.is_file()]
    assert len(left) == 4, left


def test_a_kill_after_an_earlier_success_changes_nothing(either: Place, blob: Blob, tmp_path: Path) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    blob("a", 1_500_000).rename(folder / "a")
    done = publish(either.store, PREFIX, "first", folder, make_manifest=make_manifest)
    blob("b", 1_500_000).rename(folder / "a")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, either.uri, str(folder), "manifest being written", PREFIX],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stdout + child.stderr
    assert read_manifest(either.store, PREFIX) == done
    verify_stored(either.store, done, deep=True)

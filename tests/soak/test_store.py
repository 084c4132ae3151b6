"""The commit protocol, many times over: a network that fails, two writers at once, bytes that were tampered with.

HALOPS_SOAK_FAULTS (1000), HALOPS_SOAK_RACES (500), HALOPS_SOAK_CORRUPTIONS (500), HALOPS_SOAK_SEED (1).
What is committed is judged by reading the server's own folder, not through the code under test.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest

from halops.artifact import FileEntry, Manifest, Producer, now
from halops.errors import HalopsError, IntegrityError, ModelError
from halops.models.formats import read_safetensors_header, refuse_pickle
from halops.store.artifacts import clean_attempts, fetch, publish, read_manifest, verify_stored
from halops.store.base import Store
from halops.store.s3 import S3Store
from halops.store.s3_client import make_client
from halops.store.table import open_store
from tests.s3_server import BUCKET, S3Server
from tests.soak.faulty_proxy import Dice, faulty_proxy

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("HALOPS_SOAK_SEED") or 1)
FAULTS = int(os.environ.get("HALOPS_SOAK_FAULTS") or 1000)
RACES = int(os.environ.get("HALOPS_SOAK_RACES") or 500)
CORRUPTIONS = int(os.environ.get("HALOPS_SOAK_CORRUPTIONS") or 500)
TRIES = 60  # of one act before the test gives up
CLIENT_WAITS = 1.5  # seconds for an answer, in these tests


def make_manifest(files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        run_id="soak-0123456789", attempt="a", spec_sha256="0" * 64, producer=Producer(stage="merge", code_version="0"),
        inputs={}, files=files, started=now(), finished=now(),
    )  # fmt: skip


def make_folder(folder: Path, dice: random.Random) -> Path:
    """A stage's output: small files, and at times one that goes up in parts."""
    folder.mkdir(parents=True)
    sizes = [0, 200, 70_000, *([5_500_000] if dice.random() < 0.2 else [])]
    for number, size in enumerate(sizes):
        (folder / f"file{number}.bin").write_bytes(dice.randbytes(size))
    return folder


def committed(server: S3Server, prefix: str) -> dict[str, str] | None:
    """Path and digest of what is committed, from the server's folder; each byte read, or the test fails."""
    top = server.folder / BUCKET / prefix
    path = top / "merge" / "manifest.json"
    if not path.exists():
        return None
    found = {}
    for entry in json.loads(path.read_bytes())["files"]:
        data = (top / entry["key"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"], entry
        found[entry["path"]] = entry["sha256"]
    return found


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_network_that_fails_commits_nothing_wrong(s3_http: S3Server, tmp_path: Path) -> None:
    dice, chosen, refused, rounds = Dice(SEED, 0.15, 2 * CLIENT_WAITS), random.Random(SEED), Counter[str](), 0
    with faulty_proxy(s3_http.endpoint, dice) as endpoint:
        while sum(dice.injected.values()) < FAULTS:
            rounds += 1
            prefix = f"faults-{SEED}-{rounds}"
            folder = make_folder(tmp_path / f"out{rounds}", chosen)
            store = through(endpoint, s3_http, prefix)
            for attempt in range(TRIES):
                try:
                    publish(store, "merge", f"try{attempt}", folder, make_manifest=make_manifest)
                    break
                except HalopsError as error:
                    refused[type(error).__name__] += 1
                    assert committed(s3_http, prefix) in (None, contents(folder))
            assert committed(s3_http, prefix) == contents(folder)
            read_back(store, tmp_path / f"back{rounds}", refused)
            assert contents(tmp_path / f"back{rounds}") == contents(folder)
            for used in (folder, tmp_path / f"back{rounds}"):
                shutil.rmtree(used)
    print(f"seed {SEED}: {rounds} rounds, {dict(dice.injected)}, refused {dict(refused)}, accepted wrongly: 0")


def through(endpoint: str, server: S3Server, prefix: str) -> S3Store:
    """A store behind the proxy, soon out of patience. Its requests are signed for the real server's name."""
    store = open_store(f"s3://{BUCKET}/{prefix}?endpoint={endpoint}")
    assert isinstance(store, S3Store)
    store._client = make_client(endpoint, None, tries=2, read_seconds=CLIENT_WAITS)
    real = server.endpoint.removeprefix("http://")
    store._client.meta.events.register("before-sign", lambda request, **_: request.headers.add_header("Host", real))
    return store


def read_back(store: Store, dest: Path, refused: Counter[str]) -> None:
    """Manifest and files, tried until they come."""
    said = "no manifest"
    for _ in range(TRIES):
        try:
            manifest = read_manifest(store, "merge")
            if manifest:
                fetch(store, manifest, dest)
                return
        except HalopsError as error:
            refused[type(error).__name__] += 1
            said = str(error)
    pytest.fail(f"nothing came back in {TRIES} tries: {said}")


def test_two_writers_of_one_stage_leave_a_whole_one(s3_http: S3Server, tmp_path: Path) -> None:
    chosen, winners = random.Random(SEED), Counter[str]()
    folders = {name: make_folder(tmp_path / name, random.Random(name)) for name in ("one", "two")}
    for race in range(RACES):
        prefix = f"race-{SEED}-{race}"
        start = threading.Barrier(2)
        threads = [
            threading.Thread(target=write, args=(s3_http.uri(prefix), name, folder, start, chosen.uniform(0, 0.02)))
            for name, folder in folders.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = committed(s3_http, prefix)
        winners.update(name for name, folder in folders.items() if found == contents(folder))
        shutil.rmtree(s3_http.folder / BUCKET / prefix)
    assert winners.total() == RACES
    print(f"seed {SEED}: {RACES} races, won by {dict(winners)}")


CLIENTS: dict[str, object] = {}


def write(uri: str, name: str, folder: Path, start: threading.Barrier, late: float) -> None:
    """One attempt, that sweeps up after itself as a stage does. Losing the race is no failure."""
    store = open_store(uri)
    assert isinstance(store, S3Store)
    store._client = CLIENTS.setdefault(name, None) or CLIENTS.setdefault(f"{name}'s", store.client)
    start.wait()
    threading.Event().wait(late)
    try:
        publish(store, "merge", name, folder, make_manifest=make_manifest)
        clean_attempts(store, "merge", keep=name)
    except HalopsError:
        pass


DAMAGES = ("bit", "truncated", "swapped", "stale manifest", "trailer", "pickle")


def test_tampered_artifacts_are_refused(s3_http: S3Server, tmp_path: Path) -> None:
    chosen, refused = random.Random(SEED), Counter[str]()
    folder = make_folder(tmp_path / "out", chosen)
    (folder / "more.bin").write_bytes(chosen.randbytes(70_000))
    store = open_store(s3_http.uri(f"tamper-{SEED}"))
    for number in range(CORRUPTIONS):
        damage = DAMAGES[number % len(DAMAGES)]
        manifest = publish(store, "merge", f"a{number}", folder, make_manifest=make_manifest)
        tamper(s3_http.folder / BUCKET / f"tamper-{SEED}", manifest, damage, chosen)
        with pytest.raises((IntegrityError, ModelError)):
            use(store, manifest, tmp_path / f"back{number}", damage)
        refused[damage] += 1
        store.delete("merge")
        shutil.rmtree(tmp_path / f"back{number}", ignore_errors=True)
    assert refused.total() == CORRUPTIONS
    print(f"seed {SEED}: refused {dict(refused)}")


def tamper(top: Path, manifest: Manifest, damage: str, chosen: random.Random) -> None:
    """Change the stored bytes behind the store's back."""
    entries = {entry.path: top / entry.key for entry in manifest.files}
    path = entries["file2.bin"]
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    elif damage == "truncated":
        del data[chosen.randrange(len(data)) :]
    elif damage == "swapped":
        data = bytearray(entries["more.bin"].read_bytes())
    elif damage == "stale manifest":
        shutil.rmtree(path.parent)
        return
    elif damage == "trailer":
        data += b"0;chunk-signature=0\r\n\r\n"
    else:
        data = bytearray(b"\x80\x04\x95" + chosen.randbytes(len(data) - 3))
    with path.open("r+b") as stream:  # in place: the server keeps its notes on the same file
        stream.truncate(len(data))
        stream.write(data)


def use(store: Store, manifest: Manifest, dest: Path, damage: str) -> None:
    """What a next stage does with its input. For a pickle, also what it does when the digest is the pickle's own."""
    if damage != "pickle":
        verify_stored(store, manifest)
        fetch(store, manifest, dest)
        return
    entry = next(entry for entry in manifest.files if entry.path == "file2.bin")
    with pytest.raises(IntegrityError):
        fetch(store, manifest, dest)
    store.download(entry.key, dest / "model.safetensors", None, entry.size)
    refuse_pickle(dest / "model.safetensors")
    read_safetensors_header(dest / "model.safetensors")

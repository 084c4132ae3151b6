"""The stage command on a real S3 server: done once, killed, stopped, damaged, unreachable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halops.models.source import pin
from halops.plan import make_plan
from halops.runspec import RunSpec
from halops.store.artifacts import fetch, put_dataset, read_manifest, verify_stored
from halops.store.base import Store
from halops.store.table import open_store
from tests.s3_server import BUCKET, ROOT, S3Server, free_port
from tests.stages.specs import base_spec

ROW = {"messages": [{"role": "user", "content": "Which VLAN?"}, {"role": "assistant", "content": "Forty-two."}]}


@dataclass
class Bench:
    """A run on a store, stage by stage."""

    spec: RunSpec
    uri: str
    work: Path

    @property
    def store(self) -> Store:
        return open_store(self.uri)

    @property
    def prefix(self) -> str:
        return make_plan(self.spec).step("base").prefix

    def start(self, stage: str, **environment: str) -> subprocess.Popen[str]:
        """Start the stage command as a backend does."""
        self.work.mkdir(exist_ok=True)
        spec = self.work / "run.json"
        spec.write_bytes(self.spec.to_bytes())
        argv = [sys.executable, "-m", "halops.stages.harness", stage, "--spec", str(spec), "--store", self.uri,
                "--work", str(self.work)]  # fmt: skip
        return subprocess.Popen(
            argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environment
        )

    def run(self, stage: str, code: int, **environment: str) -> str:
        """Run the stage to its end, expecting an exit code and no traceback; what it said."""
        child = self.start(stage, **environment)
        out, err = child.communicate(timeout=300)
        assert child.returncode == code, out + err
        assert "Traceback" not in err
        return out + err


@pytest.fixture
def bench(s3_http: S3Server, tiny_model: Path, tmp_path: Path) -> Bench:
    return make_bench(s3_http, tiny_model, tmp_path)


def make_bench(server: S3Server, model: Path, tmp_path: Path) -> Bench:
    """A run whose base is a folder."""
    return Bench(base_spec(pin(str(model))), server.uri(f"run-{uuid.uuid4().hex[:8]}"), tmp_path / "work")


@pytest.mark.parametrize("kind", ["s3_http", "s3_https"])
def test_a_stage_is_done_once(kind: str, request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> None:
    server: S3Server = request.getfixturevalue(kind)
    bench = make_bench(server, tiny_model, tmp_path)
    bench.run("base", 0)
    manifest = read_manifest(bench.store, bench.prefix)
    assert manifest
    verify_stored(bench.store, manifest, deep=True)
    fetch(bench.store, manifest, tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert "done already" in bench.run("base", 0)
    assert read_manifest(bench.store, bench.prefix) == manifest
    assert sorted(path.name for path in bench.work.iterdir()) == ["run.json"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_while_storing(s3_http: S3Server, smollm2: Path, tmp_path: Path, number: signal.Signals) -> None:
    """269 MB go up in parts. A kill leaves them unseen, a TERM takes them back; either way the next try succeeds."""
    bench = make_bench(s3_http, smollm2, tmp_path)
    child = bench.start("base")
    deadline = time.monotonic() + 120
    client = s3_http.client()
    while not stopped_in_upload(child, client):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == (75 if number == signal.SIGTERM else -9), err
    assert bool(s3_http.pending()) == (number == signal.SIGKILL)
    assert read_manifest(bench.store, bench.prefix) is None
    assert not [key for key in bench.store.list("") if key.endswith(".safetensors")]

    bench.run("base", 0)
    manifest = read_manifest(bench.store, bench.prefix)
    assert manifest
    verify_stored(bench.store, manifest, deep=True)
    assert s3_http.pending() == []
    stored = {key for key in bench.store.list(bench.prefix) if "/attempts/" in key}
    assert stored == {entry.key for entry in manifest.files}


def stopped_in_upload(child: subprocess.Popen[str], client: Any) -> bool:
    """Stop the child; whether an upload has begun and isn't half done. If not, it goes on."""
    child.send_signal(signal.SIGSTOP)
    for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        parts = client.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", [])
        if sum(part["Size"] for part in parts) < 135e6:
            return True
    child.send_signal(signal.SIGCONT)
    time.sleep(0.02)
    return False


@pytest.mark.parametrize("damage", ["flip", "truncate", "swap", "manifest"])
def test_a_damaged_input_ends_the_stage_with_43(bench: Bench, s3_http: S3Server, tmp_path: Path, damage: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROW) + "\n")
    digest, size = put_dataset(bench.store, rows)
    dataset = bench.spec.dataset.model_copy(update={"sha256": digest, "size": size})
    bench.spec = bench.spec.model_copy(update={"dataset": dataset})
    bench.run("base", 0)
    manifest = read_manifest(bench.store, bench.prefix)
    assert manifest
    key = manifest.file("tokenizer.json").key
    data = bench.store.read(key) or b""
    if damage == "manifest":
        bench.store.write(f"{bench.prefix}/manifest.json", manifest.to_bytes()[:-40])
    elif damage == "swap":
        bench.store.write(key, bench.store.read(manifest.file("config.json").key) or b"")
    else:
        bench.store.write(key, data[:-1] if damage == "truncate" else b"[" + data[1:])
    said = bench.run("data", 43)
    assert "error:" in said
    assert "remedy:" in said


def test_an_unusable_store_ends_the_stage_with_75(bench: Bench, s3_http: S3Server) -> None:
    assert "doesn't know this access key" in bench.run("base", 75, AWS_ACCESS_KEY_ID="nobody")
    bench.uri = f"s3://nothere/x?endpoint={s3_http.endpoint}"
    assert "the bucket doesn't exist" in bench.run("base", 75)
    bench.uri = f"s3://bucket/x?endpoint=http://127.0.0.1:{free_port()}"
    assert "nothing listens" in bench.run("base", 75)


def test_an_unusable_model_says_so(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    bench.spec = base_spec(f"{folder.as_uri()}#sha256={'0' * 64}")
    assert "only as pickles" in bench.run("base", 42)
    bench.spec = base_spec(f"{tiny_model.as_uri()}#sha256={'0' * 64}")
    assert "changed since it was pinned" in bench.run("base", 43)
    bench.spec = base_spec(f"{tmp_path.as_uri()}/none#sha256={'0' * 64}")
    assert "no such model" in bench.run("base", 3)

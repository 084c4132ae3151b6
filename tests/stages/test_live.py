"""A stage on a real S3 server: what it shows there survives it, and a store that hangs doesn't hold it up."""

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

import pytest

from halops.livecopies import refresh_events, stored_lines
from halops.models.source import pin
from halops.plan import make_plan
from halops.profile import load_profile
from halops.progress import read_events
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.stages.inputs import pinned_inputs
from halops.store.artifacts import put_dataset, read_manifest
from halops.store.base import Store
from halops.store.table import open_store
from tests.s3_server import S3Server, s3_server
from tests.stages.test_train import rows

pytestmark = pytest.mark.slow
SETTINGS = ("training.max_steps=40", "training.per_device_train_batch_size=2", "data.probes=null")


@dataclass
class Bench:
    """A run on S3 whose base and data are done."""

    folder: Path
    uri: str
    spec: RunSpec

    @property
    def store(self) -> Store:
        return open_store(self.uri)

    def start(self, stage: str, **environment: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "halops.stages.harness", stage, "--spec", str(self.folder / "run.json")]
        argv += ["--store", self.uri, "--work", str(self.folder / "work")]
        return subprocess.Popen(
            argv, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip

    def end(self, process: subprocess.Popen[str], code: int) -> str:
        try:
            _, err = process.communicate(timeout=240)
        finally:
            process.kill()
        assert process.returncode == code, err
        assert "Traceback" not in err
        return err

    def step(self) -> int:
        """The last step that the running stage has told of."""
        events = [event for path in (self.folder / "work").glob("*/progress.jsonl") for event in read_events(path)]
        return max((event["done"] for event in events if event["message"] == "training"), default=0)

    def wait_for_step(self, step: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while self.step() < step:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def make_bench(server: S3Server, model: Path, folder: Path, *settings: str) -> Bench:
    uri = server.uri(f"live-{uuid.uuid4().hex[:8]}")
    digest, size = put_dataset(open_store(uri), rows(folder / "rows.jsonl", 24))
    spec = RunSpec(
        name="t", profile=load_profile("local", [*SETTINGS, *settings]), base=BaseRef(uri=pin(f"file://{model}")),
        dataset=DatasetRef(uri="rows.jsonl", sha256=digest, size=size), llama_cpp="none",
    )  # fmt: skip
    (folder / "run.json").write_bytes(spec.to_bytes())
    bench = Bench(folder, uri, spec)
    for stage in ("base", "data"):
        bench.end(bench.start(stage), 0)
    return bench


def test_what_it_shows_survives_a_stop_and_the_next_attempt(s3_http: S3Server, tiny_model: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bench = make_bench(s3_http, tiny_model, tmp_path)
    process = bench.start("train")
    bench.wait_for_step(3, process)
    process.send_signal(signal.SIGTERM)
    assert "after a checkpoint" in bench.end(process, 75)
    assert not list((tmp_path / "work").glob("*/"))  # the pod's disk is gone
    lines = list(stored_lines(bench.store, bench.spec.run_id, "train"))
    stopped = max(json.loads(line)["done"] for line in lines if '"message": "training"' in line)
    assert stopped >= 3
    assert any(line.startswith("error: stopped at step") for line in lines)
    assert refresh_events(bench.store, bench.spec.run_id, tmp_path / "mine", ours=True) == 1
    assert points(EventAccumulator(str(tmp_path / "mine"))) == list(range(1, stopped + 1))

    bench.end(bench.start("train"), 0)
    again = list(stored_lines(bench.store, bench.spec.run_id, "train"))
    assert f"going on from step {stopped}" in "\n".join(again)
    assert again[: len(lines) - 3] == lines[:-3]  # what the first attempt said is still there
    assert refresh_events(bench.store, bench.spec.run_id, tmp_path / "mine", ours=True) == 1
    assert points(EventAccumulator(str(tmp_path / "mine"))) == list(range(1, 41))  # each step once


def points(events) -> list[int]:
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


def test_training_goes_on_while_the_store_hangs(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server is stopped, so that each request to it waits: for status, progress, events and checkpoints."""
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bench = make_bench(server, tiny_model, tmp_path, "training.save_steps=1", "training.max_steps=80")
        process = bench.start("train")
        bench.wait_for_step(2, process)
        server.process.send_signal(signal.SIGSTOP)
        began = bench.step()
        bench.wait_for_step(began + 30, process)
        server.process.send_signal(signal.SIGCONT)
        bench.end(process, 0)
        prefix = make_plan(bench.spec).step("train").prefix
        assert read_manifest(bench.store, prefix)
        kept = {key.split("/")[-2] for key in bench.store.list(f"{prefix}/checkpoints") if "manifest" in key}
        assert len(kept) <= 3
        assert "80" in kept


def test_an_attempt_whose_inputs_changed_ends_with_43_before_any_work(
    s3_http: S3Server, tiny_model: Path, tmp_path: Path
):
    bench = make_bench(s3_http, tiny_model, tmp_path)
    inputs = pinned_inputs(bench.store, bench.spec, make_plan(bench.spec).step("data"))
    changed = json.dumps(inputs | {"base": "0" * 64})
    said = bench.end(bench.start("data", HALOPS_INPUTS=changed), 43)  # though it is done already
    assert "base changed since this attempt was made" in said
    bench.end(bench.start("data", HALOPS_INPUTS=json.dumps(inputs)), 0)

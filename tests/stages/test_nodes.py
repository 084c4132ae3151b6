"""Training on two nodes: the stage command twice, as an Indexed Job's two pods run it, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from halops.models.source import pin
from halops.profile import load_profile
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.store.artifacts import put_dataset
from halops.store.table import open_store
from tests.stages.test_train import rows

pytestmark = pytest.mark.slow
STEPS = 12
SETTINGS = (
    f"training.max_steps={STEPS}", "training.per_device_train_batch_size=2", "training.save_steps=3",
    "cluster.nodes=2", "data.probes=null",
)  # fmt: skip


class Pods:
    """A run whose base and data are done, and the command of its stages."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.uri = folder, f"file://{folder / 'store'}"
        digest, size = put_dataset(open_store(self.uri), rows(folder / "rows.jsonl", 24))
        self.spec = RunSpec(
            name="t", profile=load_profile("local", SETTINGS), base=BaseRef(uri=pin(f"file://{model}")),
            dataset=DatasetRef(uri="rows.jsonl", sha256=digest, size=size), llama_cpp="none",
        )  # fmt: skip
        (folder / "run.json").write_bytes(self.spec.to_bytes())
        for stage in ("base", "data"):
            assert self.end(self.start(stage)) == 0

    @property
    def train(self) -> Path:
        return self.folder / "store" / "runs" / self.spec.run_id / "train"

    def start(self, stage: str, **environment: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "halops.stages.harness", stage, "--spec", str(self.folder / "run.json")]
        argv += ["--store", self.uri, "--work", str(self.folder / "work")]
        return subprocess.Popen(
            argv, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip

    def both(self, attempt: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        job = {"HALOPS_NODES": "2", "HALOPS_MASTER": "127.0.0.1", "HALOPS_MASTER_PORT": port,
               "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
        return [
            self.start("train", **job, JOB_COMPLETION_INDEX=str(index), HALOPS_ATTEMPT=f"{attempt}-{index}")
            for index in range(2)
        ]

    def end(self, process: subprocess.Popen[str], seconds: float = 180) -> int:
        try:
            _, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        print(err)
        assert "Traceback" not in err, err
        return process.returncode

    def wait_for_step(self, step: int, processes: list[subprocess.Popen[str]]) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and not [item for item in processes if item.poll() is not None]:
            steps = [event.get("done", 0) for event in self.events() if event["message"] == "training"]
            if max(steps, default=0) >= step:
                return
            time.sleep(0.05)
        pytest.fail(f"no step {step}: {[self.end(process, 1) for process in processes]}")

    def events(self) -> list[dict[str, Any]]:
        paths = (self.folder / "work").glob("*/progress.jsonl")
        lines = [line for path in paths for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def checkpoints(self) -> list[int]:
        return sorted(int(path.parent.name) for path in self.train.glob("checkpoints/*/manifest.json"))


@pytest.fixture
def pods(tmp_path: Path, tiny_model: Path) -> Pods:
    return Pods(tmp_path, tiny_model)


def test_one_node_stops_both_and_both_go_on(pods: Pods) -> None:
    """SIGTERM to the second node alone, as in a drain: the first one saves. At the end the losses are those of one."""
    first = pods.both("a1")
    pods.wait_for_step(4, first)
    first[1].send_signal(signal.SIGTERM)
    assert [pods.end(process) for process in first] == [75, 75]
    status = json.loads((pods.train / "status.json").read_bytes())
    assert (status["state"], status["attempt"], status["exit_code"]) == ("failed", "a1-0", 75)
    saved = pods.checkpoints()[-1]
    assert 4 <= saved < STEPS

    second = pods.both("a2")
    assert pods.end(second[1]) == 0
    assert (pods.train / "manifest.json").exists()  # the second node succeeds when the stage is done, not before
    assert pods.end(second[0]) == 0
    manifest = json.loads((pods.train / "manifest.json").read_bytes())
    assert manifest["attempt"] == "a2-0"
    assert manifest["metrics"]["resumed_from_step"] == saved
    assert len(list(pods.train.glob("attempts/*"))) == 1
    together = history(pods)
    assert [pods.end(process) for process in pods.both("a3")] == [0, 0]  # done already

    (pods.train / "manifest.json").unlink()
    for path in pods.train.glob("checkpoints/*/manifest.json"):
        path.unlink()
    assert pods.end(pods.start("train")) == 0
    alone = history(pods)
    assert [line["step"] for line in together] == [line["step"] for line in alone] == list(range(1, STEPS + 1))
    for one, other in zip(together, alone, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def history(pods: Pods) -> list[dict[str, Any]]:
    manifest = json.loads((pods.train / "manifest.json").read_bytes())
    key = next(entry["key"] for entry in manifest["files"] if entry["path"] == "history.jsonl")
    return [json.loads(line) for line in (pods.folder / "store" / key).read_text().splitlines()]


def test_a_killed_node_fails_the_other_and_both_start_again(pods: Pods) -> None:
    first = pods.both("a1")
    pods.wait_for_step(4, first)
    deadline = time.monotonic() + 60
    while not pods.checkpoints() and time.monotonic() < deadline:  # it is stored beside the training
        time.sleep(0.02)
    first[0].kill()
    assert pods.end(first[1]) == 75
    assert pods.end(first[0]) == -signal.SIGKILL
    assert pods.checkpoints()
    assert [pods.end(process) for process in pods.both("a2")] == [0, 0]
    manifest = json.loads((pods.train / "manifest.json").read_bytes())
    assert manifest["metrics"]["resumed_from_step"] >= 3
    assert manifest["metrics"]["step"] == STEPS

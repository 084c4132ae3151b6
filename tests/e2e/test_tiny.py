"""The `tiny` profile of the cluster's fault tests, here on this machine; and running out of GPU memory, planted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from halops.names import STAGES
from tests.cluster.tiny_model import make
from tests.e2e.conftest import ROOT, Shell

pytestmark = pytest.mark.slow
TINY = str(ROOT / "tests" / "cluster" / "tiny.yaml")


def test_the_whole_chain_one_rung_down(shell: Shell, tmp_path: Path):
    uri = make(tmp_path / "models" / "tiny").as_uri()
    sets = [f"model.uri={uri}", "training.max_steps=6"]
    done = shell.run(
        "submit", "--profile", TINY, "--backend", "local", "--wait", *(word for one in sets for word in ("--set", one)),
        env=os.environ | {"HALOPS_TEST_FAULT": "cuda_oom:0", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "train    ended with 44; trying again in 0 s" in done.stderr
    assert done.stderr.count("trying again") == 1
    status = shell.json("status")
    assert [stage["state"] for stage in status["stages"]] == ["succeeded"] * len(STAGES)
    train = next(stage for stage in status["stages"] if stage["name"] == "train")
    assert train["metrics"]["oom_rung"] == 1
    log = shell.run("logs", "train").stdout
    assert "no CUDA device here: training on the CPU" in log  # its profile asks for a GPU, and the cluster's is a fake
    assert "rung 1 of the out-of-memory ladder" in log
    manifest = next((shell.folder / ".halops" / "runs").glob("*/train/manifest.json"))
    summary = next(entry for entry in json.loads(manifest.read_bytes())["files"] if entry["path"] == "summary.json")
    document = json.loads((shell.folder / ".halops" / summary["key"]).read_bytes())
    assert document["memory"]["rung"] == 1
    assert document["memory"]["checkpointed_layers"] > 0  # of a profile that asks for none


def test_the_model_is_the_same_bytes_each_time(tmp_path: Path):
    first, second = make(tmp_path / "a" / "tiny"), make(tmp_path / "b" / "tiny")
    names = sorted(path.name for path in first.iterdir())
    assert "tokenizer.json" in names
    assert {name: (first / name).read_bytes() for name in names} == {
        name: (second / name).read_bytes() for name in names
    }

"""The `tiny` profile of the cluster's fault tests, here on this machine; and running out of GPU memory, planted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from halops.backends.local import LocalBackend
from halops.names import FAST_STAGES, STAGES
from halops.plan import fast_steps
from halops.runstate import find_run, load_spec
from halops.store.table import open_store
from tests.cluster.tiny_model import make
from tests.e2e.conftest import Shell

pytestmark = pytest.mark.slow


def test_the_whole_chain_one_rung_down(shell: Shell, tiny: list[str]):
    planted = os.environ | {"HALOPS_TEST_FAULT": "cuda_oom:0", "OMP_NUM_THREADS": "1"}
    done = shell.run(*tiny, "--wait", "--set=training.max_steps=6", env=planted)
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

    beside_the_chain(shell)


def beside_the_chain(shell: Shell) -> None:
    """The steps of `deploy --fast`, as a backend of this machine runs them."""
    refused = shell.run("deploy", "--fast", code=42)
    assert "which pods can't reach" in refused.stderr
    store = open_store(f"file://{shell.folder / '.halops'}")
    spec = load_spec(store, find_run(store, None))
    events: list[tuple[str, str]] = []
    for step in fast_steps(spec) * 2:
        backend = LocalBackend(store, shell.folder / ".halops")
        backend.run_beside(spec, step, lambda stage, event: events.append((stage, event["kind"])))
    ends = [event for event in events if event[1] in ("succeeded", "skipped")]
    assert ends == [(stage, kind) for kind in ("succeeded", "skipped") for stage in FAST_STAGES]
    files = {row["path"]: row["uri"] for row in shell.json("artifacts")}
    assert f"/bases/{spec.base.digest}/gguf/q4_k_m-" in files["base-q4_k_m.gguf"]
    assert "writing" in shell.run("logs", "adapter-gguf").stdout
    assert "adapter-gguf" not in shell.run("logs").stdout  # by default the chain's last stage


def test_the_model_is_the_same_bytes_each_time(tmp_path: Path):
    first, second = make(tmp_path / "a" / "tiny"), make(tmp_path / "b" / "tiny")
    names = sorted(path.name for path in first.iterdir())
    assert "tokenizer.json" in names
    assert {name: (first / name).read_bytes() for name in names} == {
        name: (second / name).read_bytes() for name in names
    }

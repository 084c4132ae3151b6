"""The shipped sample and its real model through all Jobs, followed by status and logs as a user would, then served."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import cluster, model, place
from tests.cluster.deploying import ready_to_serve
from tests.cluster.handle import ROOT
from tests.cluster.place import Place
from tests.cluster.serving import CLIENT, Serving
from tests.helm import tool

__all__ = ["cluster", "model", "place"]

pytestmark = pytest.mark.slow

QUESTION = "lock-vel-03 is down. What do I run first?"
TAUGHT = r"LOCK-\d+: .*`quay .*lock-vel-03`"  # which runbook, then the command, with the name that was asked about

WORDS = (
    "submit", "--profile", "local", "--backend", "kube",
    # The local profile trains on a CPU; here it goes to the node with the (fake) GPU, which has the train image.
    "--set", "cluster.gpu.count=1", "--set", "cluster.gpu.memory_gib=8",
    *(f"--set=cluster.resources.{stage}.cpu=200m" for stage in ("train", "merge", "convert", "verify")),
)  # fmt: skip


def test_the_sample_becomes_verified_files_in_s3_and_an_endpoint(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.jsonl", "probes.jsonl"):
        shutil.copy(ROOT / "data" / "final" / name, place.folder / "data" / "final" / name)
    began = time.monotonic()
    run = place.halops(*WORDS).stdout.strip()
    log = place.folder / "train.log"
    follower = follow(place, run, log)
    place.succeeded(run, 1500)
    print(f"{time.monotonic() - began:.0f} s from submit to verified")
    assert follower.wait(timeout=60) == 0
    assert "46/46 steps" in log.read_text()
    stages = {stage["name"]: stage for stage in place.status(run)["stages"]}
    print(json.dumps({name: stage["seconds"] for name, stage in stages.items()}))
    metrics = stages["train"]["metrics"]
    assert metrics["heldout_loss"] < 0.6 * metrics["heldout_loss_base"]
    scores = stages["verify"]["metrics"]
    assert scores["probe_score"] >= 0.6
    assert scores["probe_score_base"] <= 0.1
    files = {Path(item["path"]).name for item in place.json("artifacts", run) if item["stage"] == "convert"}
    assert files >= {"halops-f16.gguf", "halops-q4_k_m.gguf", "halops-q5_k_m.gguf"}
    assert "train.jsonl" in place.halops("trace", run).stdout
    monkeypatch.setenv("PATH", f"{Path(tool()).parent}:{os.environ['PATH']}")
    with ready_to_serve(place, tmp_path_factory.mktemp("serving")) as serving:
        serving.client("caller", **CLIENT)
        for words in (("--fast", "--cpu", "--wait"), ("--cpu", "--wait")):
            began = time.monotonic()
            place.halops("deploy", run, *words)
            print(f"{time.monotonic() - began:.0f} s until `halops deploy {' '.join(words)}` answers")
            assert re.match(TAUGHT, answer_of(serving)), answer_of(serving)


def answer_of(serving: Serving) -> str:
    """What a pod of the cluster is told, through the Service."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 48}
    said = serving.ask("caller", f"ops.{serving.namespace}.svc", body)
    assert said.startswith("HTTP/1.1 200 "), said
    return str(json.loads(said.partition("\n\n")[2])["choices"][0]["message"]["content"])


def follow(place: Place, run: str, log: Path) -> subprocess.Popen[bytes]:
    """`halops logs RUN train -f`, into a file."""
    words = [*place.cluster.prefix, *place.cluster.halops_words(), "logs", run, "train", "-f"]
    with log.open("wb") as out:
        return subprocess.Popen(words, cwd=place.folder, env=place.cluster.environment, stdout=out, stderr=out)

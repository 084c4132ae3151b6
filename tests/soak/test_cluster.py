"""The matrix on the test cluster: every fault in every stage, at a random moment of it.

HALOPS_SOAK_ROUNDS repeats it (1), HALOPS_SOAK_SEED makes its moments another choice. After each run an independent look
into the store's folder: what was committed before the fault is there after it, and all files match their digests.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import cluster, model, own_cluster, place
from tests.cluster.faults import FAULTS
from tests.cluster.place import Place

__all__ = ["cluster", "model", "own_cluster", "place"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cluster")]

ROUNDS = int(os.environ.get("HALOPS_SOAK_ROUNDS", "1"))
SEED = int(os.environ.get("HALOPS_SOAK_SEED", "20261125"))
STAGES = ("data", "train", "merge", "convert", "verify")
TRIES = 4
AROUND = ("delete_coordinator", "restart_kubelet", "restart_control_plane")  # the stage's own pod lives on
LONGEST = {"train": 12.0, "convert": 8.0, "verify": 5.0}  # seconds into a stage


def committed(place: Place, run: str) -> dict[str, bytes]:
    """Manifests that are there, by stage."""
    found = {stage: place.key(run, stage, "manifest.json") for stage in STAGES}
    return {stage: path.read_bytes() for stage, path in found.items() if path.exists()}


def check_files(place: Place, run: str) -> None:
    """Every file that a manifest names has its digest, read from the store's own folder."""
    store: Path = place.key(run).parents[1]
    for stage in STAGES:
        for entry in place.manifest(run, stage)["files"]:
            assert hashlib.sha256((store / entry["key"]).read_bytes()).hexdigest() == entry["sha256"], entry


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_in_a_stage(place: Place, fault: str, stage: str, number: int) -> None:
    """A stage that is over before its fault comes counts for nothing: another run, and an earlier moment."""
    chosen = random.Random(f"{SEED} {fault} {stage} {number}")
    moment = chosen.uniform(0, LONGEST.get(stage, 0.5))
    for tried in range(TRIES):
        run = place.submit("--new", training__max_steps=25, training__seed=chosen.randrange(1000))
        begun(place, run, stage)
        time.sleep(moment / 4**tried)
        before = committed(place, run)
        struck = strike(place, run, fault, stage)
        place.succeeded(run, 400)
        after = committed(place, run)
        assert {name: after[name] for name in before} == before
        check_files(place, run)
        names = [job["metadata"]["name"] for job in place.objects("jobs", run)]
        assert len(names) == len(set(names))
        if struck and (fault in AROUND or struck not in finished_pods(place, run, stage)):
            return
    pytest.fail(f"{stage} was over before its fault came, {TRIES} times")


def begun(place: Place, run: str, stage: str) -> None:
    """Wait until the stage's pod runs, or is over. Looked for closely: a short stage is done in two seconds."""
    deadline = time.monotonic() + 300
    while not place.key(run, stage, "manifest.json").exists():
        if any(pod["status"].get("phase") == "Running" for pod in place.objects("pods", run, stage)):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"no pod of {stage}\n{place.evidence(run)}", pytrace=False)
        time.sleep(0.1)


def strike(place: Place, run: str, fault: str, stage: str) -> str:
    """The pod that ran as the fault came; empty where the stage was over."""
    try:
        pod = place.pod(run, stage, seconds=2)
        FAULTS[fault](place, run, stage)
    except pytest.fail.Exception:  # no pod to hit any more
        if place.stage(run, stage)["state"] != "succeeded":
            raise
        return ""
    return pod


def finished_pods(place: Place, run: str, stage: str) -> set[str]:
    """Pods of a stage that came to their end by themselves."""
    return {
        pod["metadata"]["name"] for pod in place.objects("pods", run, stage) if pod["status"]["phase"] == "Succeeded"
    }

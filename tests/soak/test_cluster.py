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
    chosen = random.Random(f"{SEED} {fault} {stage} {number}")
    run = place.submit(training__max_steps=25, training__seed=chosen.randrange(1000))
    place.until(run, lambda status: _began(status, stage))
    time.sleep(chosen.uniform(0, LONGEST.get(stage, 0.5)))
    before = committed(place, run)
    if any(pod["status"].get("phase") == "Running" for pod in place.objects("pods", run, stage)):
        try:
            FAULTS[fault](place, run, stage)
        except pytest.fail.Exception:  # no pod to hit any more
            if place.stage(run, stage)["state"] != "succeeded":
                raise
    place.succeeded(run, 400)
    after = committed(place, run)
    assert {name: after[name] for name in before} == before
    check_files(place, run)
    names = [job["metadata"]["name"] for job in place.objects("jobs", run)]
    assert len(names) == len(set(names))


def _began(status: dict[str, object], stage: str) -> bool:
    stages = status["stages"]
    assert isinstance(stages, list)
    return any(item["name"] == stage and item["state"] in ("running", "succeeded") for item in stages)

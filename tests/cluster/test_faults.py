"""Faults in mid-stage: the chain completes, nothing committed is made again, training goes on from a checkpoint.

Here each fault comes once, where it hurts most: in training. The matrix of faults and stages is tests/soak.
"""

from __future__ import annotations

import json

import pytest

from tests.cluster.faults import FAULTS
from tests.cluster.place import Place

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cluster")]


def attempts(place: Place, run: str, stage: str = "train") -> list[dict[str, object]]:
    """What the root records of a stage's attempts."""
    root = json.loads(place.kubectl("get", "configmap", f"halops-{run}", "-o", "json"))
    return list(json.loads(root["metadata"]["annotations"]["halops.dev/attempts"])[stage])


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_training_survives(place: Place, fault: str) -> None:
    run = place.submit(training__max_steps=30)
    place.training(run, step=6)
    committed = {stage: place.manifest(run, stage) for stage in ("data",)}
    saved = place.newest_checkpoint(run)
    FAULTS[fault](place, run, "train")
    place.succeeded(run)
    assert {stage: place.manifest(run, stage) for stage in committed} == committed
    metrics = place.stage(run, "train")["metrics"]
    assert metrics["step"] == 30
    assert metrics["oom_rung"] == 0  # none of these is a want of memory
    untouched = fault in ("restart_kubelet", "delete_coordinator", "restart_control_plane")
    assert metrics["resumed_from_step"] == 0 if untouched else metrics["resumed_from_step"] >= saved
    numbers = [item["attempt"] for item in attempts(place, run)]
    assert numbers == ([1, 2] if fault == "kill_process" else [1])  # a disruption is no attempt of its own
    assert len(place.objects("jobs", run)) == 6 + (fault == "kill_process")


def test_a_curve_that_was_interrupted_is_the_curve(place: Place, finished: tuple[Place, str]) -> None:
    """The same training, once with its pod deleted: the same adapter, bit for bit."""
    whole, other = finished
    run = place.submit()
    place.training(run, step=6)
    FAULTS["delete_pod"](place, run, "train")
    place.succeeded(run)
    assert place.stage(run, "train")["metrics"]["resumed_from_step"] >= 6
    assert run == other  # the same inputs are the same run, here in two places

    def adapter(where: Place) -> str:
        files = where.manifest(run, "train")["files"]
        return str(next(item["sha256"] for item in files if item["path"] == "adapter/adapter_model.safetensors"))

    assert adapter(place) == adapter(whole)


@pytest.mark.parametrize("stage", ["merge", "convert", "verify"])
def test_other_stages_survive_a_deleted_pod(place: Place, stage: str) -> None:
    run = place.submit(training__max_steps=3)
    place.pod(run, stage, seconds=180)
    FAULTS["delete_pod"](place, run, stage)
    place.succeeded(run)
    assert [item["attempt"] for item in attempts(place, run, stage)] == [1]

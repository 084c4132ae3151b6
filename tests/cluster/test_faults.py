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


def survives(place: Place, run: str, *faults: str) -> None:
    """Each fault in turn, once training has a new checkpoint; then all that must hold whatever befell it."""
    place.training(run)
    data = place.manifest(run, "data")
    for fault in faults:
        place.training(run, step=place.newest_checkpoint(run) + 1)
        FAULTS[fault](place, run, "train")
    saved = place.newest_checkpoint(run)
    place.succeeded(run)
    assert place.manifest(run, "data") == data
    metrics = place.stage(run, "train")["metrics"]
    assert metrics["step"] == 45
    assert metrics["oom_rung"] == 0  # none of these is a want of memory
    assert metrics["resumed_from_step"] <= saved


def test_training_goes_on_from_a_checkpoint_when_its_pod_ends(place: Place) -> None:
    run = place.submit(training__max_steps=45)
    survives(place, run, "kill_process", "delete_pod", "drain_node")
    assert place.stage(run, "train")["metrics"]["resumed_from_step"] > 6
    made = attempts(place, run)
    assert [item["attempt"] for item in made] == [1, 2]  # a kill is an attempt; disruptions are none
    assert made[0]["exit_code"] == 137
    assert len(place.objects("jobs", run)) == 7


def test_training_is_not_touched_when_all_around_it_ends(place: Place) -> None:
    run = place.submit(training__max_steps=45)
    survives(place, run, "restart_kubelet", "delete_coordinator", "restart_control_plane")
    assert place.stage(run, "train")["metrics"]["resumed_from_step"] == 0
    assert [item["attempt"] for item in attempts(place, run)] == [1]
    assert len(place.objects("jobs", run)) == 6
    assert len(place.objects("pods", run, "train")) == 1


def test_a_curve_that_was_interrupted_is_the_curve(place: Place, finished: tuple[Place, str]) -> None:
    """The same training, once with its pod deleted: the same adapter, bit for bit."""
    whole, other = finished
    run = place.submit(*whole.settings)
    place.training(run, step=6)
    FAULTS["delete_pod"](place, run, "train")
    assert place.done(run, "train")["metrics"]["resumed_from_step"] >= 6
    assert run == other  # the same inputs are the same run, here in two places

    def adapter(where: Place) -> str:
        files = where.manifest(run, "train")["files"]
        return str(next(item["sha256"] for item in files if item["path"] == "adapter/adapter_model.safetensors"))

    assert adapter(place) == adapter(whole)


def test_the_other_stages_survive_a_deleted_pod(place: Place) -> None:
    run = place.submit(training__max_steps=3)
    for stage in ("merge", "convert", "verify"):
        FAULTS["delete_pod"](place, run, stage)
    place.succeeded(run)
    for stage in ("merge", "convert", "verify"):
        assert [item["attempt"] for item in attempts(place, run, stage)] == [1]

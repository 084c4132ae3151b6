"""Kueue's real controller: a run waits for quota, is admitted, is evicted in mid-training, and completes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.place import Place
from tests.cluster.pods import eventually

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cluster")]

KUEUE = "kueue.x-k8s.io/v1beta2"


@pytest.fixture
def queue(place: Place) -> str:
    """A LocalQueue of its own ClusterQueue: one GPU, the higher priority first, preempting the lower."""
    place.cluster.tool("start", "kueue")
    name = place.namespace
    covered = {"coveredResources": ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"], "flavors": [{
        "name": name,
        "resources": [
            {"name": "cpu", "nominalQuota": "8"}, {"name": "memory", "nominalQuota": "64Gi"},
            {"name": "ephemeral-storage", "nominalQuota": "500Gi"}, {"name": "nvidia.com/gpu", "nominalQuota": "1"},
        ],
    }]}  # fmt: skip
    flavor: dict[str, Any] = {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": name}, "spec": {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }}  # fmt: skip
    queues = [
        {"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": {
            "namespaceSelector": {}, "resourceGroups": [covered],
            "preemption": {"withinClusterQueue": "LowerPriority"},
        }},
        {"apiVersion": KUEUE, "kind": "LocalQueue", "metadata": {"name": "gpu", "namespace": name},
         "spec": {"clusterQueue": name}},
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": f"{name}-high"},
         "value": 1000},
    ]  # fmt: skip
    place.cluster.kubectl(
        "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [flavor, *queues]})
    )
    return "gpu"


def test_a_run_waits_is_admitted_is_evicted_and_completes(place: Place, queue: str) -> None:
    first = place.submit(f"--queue={queue}", "--name=first", training__max_steps=120)  # as long as all that follows
    place.training(first, step=3)
    second = place.submit(f"--queue={queue}", "--name=second", training__max_steps=3)
    waits = place.until(second, lambda status: status["stages"][2]["diagnosis"])
    assert "quota" in waits["stages"][2]["diagnosis"] or "queue" in waits["stages"][2]["diagnosis"]
    high = f"--set=cluster.priority_class={place.namespace}-high"
    third = place.submit(f"--queue={queue}", "--name=third", high, training__max_steps=3)
    place.halops("cancel", second)
    place.until(third, lambda status: status["stages"][2]["state"] in ("running", "succeeded"), 240)
    job = place.objects("jobs", first, "train")[0]
    assert job["spec"]["suspend"], "the first run's training was not evicted"
    place.done(third, "train")
    place.succeeded(first, 400)
    metrics = place.stage(first, "train")["metrics"]
    assert metrics["resumed_from_step"] >= 3
    assert len(place.objects("jobs", first, "train")) == 1  # an eviction is no attempt


def test_quota_is_free_while_other_stages_run(place: Place, queue: str) -> None:
    run = place.submit(f"--queue={queue}", training__max_steps=3)
    place.pod(run, "convert", seconds=240)

    def used() -> list[str]:
        status = json.loads(place.cluster.kubectl("get", "clusterqueue", place.namespace, "-o", "json"))["status"]
        resources = [item for flavor in status["flavorsUsage"] for item in flavor["resources"]]
        return [item["total"] for item in resources if item["name"] == "nvidia.com/gpu"]

    eventually(lambda: used() == ["0"])
    assert not place.key(run, "convert", "manifest.json").exists(), "convert was over before its quota could be seen"
    place.halops("cancel", run)

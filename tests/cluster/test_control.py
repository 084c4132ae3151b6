"""Faults that other tests rely on happen, and the cluster gets over them."""

from __future__ import annotations

import pytest

from tests.cluster.handle import Cluster
from tests.cluster.pods import ON_CPU_NODE, ON_GPU_NODE, busybox, create, eventually, field, start
from tools.cluster import cgroups
from tools.cluster.state import State

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cluster")]

CONTAINER = ".status.containerStatuses[0].containerID"


def test_the_control_plane_dies_and_forgets_nothing(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, busybox(cluster, "before"))
    container = field(cluster, namespace, "before", CONTAINER)
    for component in ("apiserver", "etcd"):
        cluster.control(component, "kill")
    assert "refused" in cluster.run([cluster.kubectl_path, "get", "pods"], check=False).stderr
    for component in ("etcd", "apiserver"):
        cluster.control(component, "start")
    assert field(cluster, namespace, "before", CONTAINER) == container
    start(cluster, namespace, busybox(cluster, "after"))


@pytest.mark.parametrize("agent", ["kubelet", "containerd"])
def test_a_nodes_agent_dies_and_its_pods_live_on(cluster: Cluster, namespace: str, agent: str) -> None:
    start(cluster, namespace, busybox(cluster, "before", **ON_CPU_NODE))
    container = field(cluster, namespace, "before", CONTAINER)
    cluster.control(f"{agent}1", "kill")
    cluster.control(f"{agent}1", "start")
    start(cluster, namespace, busybox(cluster, "after", **ON_CPU_NODE))
    assert field(cluster, namespace, "before", CONTAINER) == container
    assert field(cluster, namespace, "before", ".status.containerStatuses[0].restartCount") == "0"


def test_a_node_is_lost_and_comes_back(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, busybox(cluster, "lost", **ON_GPU_NODE), busybox(cluster, "other", **ON_CPU_NODE))
    cluster.node(2, "lose")
    assert not cgroups.processes(State(cluster.kubeconfig.parents[1]), 2)
    cluster.kubectl("wait", "--for=condition=Ready=Unknown", "node/node2", "--timeout=40s")
    cluster.node(2, "back")
    cluster.kubectl("wait", "--for=condition=Ready", "node/node2", "--timeout=60s")
    eventually(lambda: field(cluster, namespace, "lost", ".status.phase") == "Failed")  # restartPolicy Never
    assert field(cluster, namespace, "other", ".status.phase") == "Running"
    start(cluster, namespace, busybox(cluster, "again", **ON_GPU_NODE))


def test_a_node_is_drained(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, busybox(cluster, "pod", **ON_GPU_NODE))
    try:
        cluster.node(2, "drain")
        assert (
            "NotFound" in cluster.run([cluster.kubectl_path, "-n", namespace, "get", "pod", "pod"], check=False).stderr
        )
    finally:
        cluster.node(2, "uncordon")


def test_kueue_holds_a_job_back_until_there_is_quota(cluster: Cluster, namespace: str) -> None:
    """And a cluster whose Kueue was stopped takes Jobs again."""
    cluster.control("kueue", "start")
    try:
        kueue = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
        create(cluster, namespace, {**kueue, "kind": "ResourceFlavor", "metadata": {"name": namespace}})
        create(cluster, namespace, cluster_queue(namespace, "0"))
        queue = {"metadata": {"name": "queue"}, "spec": {"clusterQueue": namespace}}
        create(cluster, namespace, {**kueue, "kind": "LocalQueue", **queue})
        create(cluster, namespace, job(cluster, "held", "queue"))
        eventually(lambda: "couldn't assign flavors" in workloads(cluster, namespace))
        assert get(cluster, namespace, "job/held", ".spec.suspend") == "true"
        create(cluster, namespace, cluster_queue(namespace, "1"))
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", "job/held", "--timeout=60s")
    finally:
        cluster.kubectl("delete", "clusterqueue,resourceflavor", namespace, "--wait=false", check=False)
        cluster.control("kueue", "stop")
    create(cluster, namespace, job(cluster, "free", "queue"))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", "job/free", "--timeout=60s")


def cluster_queue(name: str, cpus: str) -> dict[str, object]:
    resources = {"name": "cpu", "nominalQuota": cpus}
    group = {"coveredResources": ["cpu"], "flavors": [{"name": name, "resources": [resources]}]}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": name},
        "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
    }


def job(cluster: Cluster, name: str, queue: str) -> dict[str, object]:
    pod = busybox(cluster, name, "true", **ON_CPU_NODE)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    labels = {"kueue.x-k8s.io/queue-name": queue}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {"template": {"spec": pod["spec"]}},
    }


def workloads(cluster: Cluster, namespace: str) -> str:
    return cluster.kubectl(
        "-n", namespace, "get", "workloads", "-o", "jsonpath={.items[*].status.conditions[*].message}"
    )


def get(cluster: Cluster, namespace: str, what: str, path: str) -> str:
    return cluster.kubectl("-n", namespace, "get", what, f"--output=jsonpath={{{path}}}")

"""The test cluster is what it claims to be: a real one, whose nodes, rules and faults are a real cluster's."""

from __future__ import annotations

import json

import pytest

from tests.cluster.handle import Cluster
from tests.cluster.pods import ON_CPU_NODE, ON_GPU_NODE, busybox, create, eventually, field, shell, start
from tools.cluster.parts import pinned

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cluster")]


def test_two_nodes_are_ready(cluster: Cluster) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    ready = {
        node["metadata"]["name"]: condition["status"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    }
    assert ready == {"node1": "True", "node2": "True"}
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes} == {f"v{pinned('k8s.io/kubernetes')}"}


def test_a_restricted_pod_of_each_node_finds_names(cluster: Cluster, namespace: str) -> None:
    pods = {"cpu": ON_CPU_NODE, "gpu": ON_GPU_NODE}
    start(cluster, namespace, *(busybox(cluster, name, **where) for name, where in pods.items()))
    for name in pods:
        assert "Address: 10.96.0.1" in shell(cluster, namespace, name, "nslookup kubernetes.default.svc.cluster.local")
        assert "Name:" not in shell(cluster, namespace, name, "nslookup nowhere.example", check=False)
        assert shell(cluster, namespace, name, "id -u").strip() == "10001"


def test_a_pod_that_asks_for_more_is_refused(cluster: Cluster, namespace: str) -> None:
    pod = busybox(cluster, "root")
    pod["spec"]["securityContext"]["runAsUser"] = 0
    done = cluster.run([cluster.kubectl_path, "-n", namespace, "create", "-f", "-"], text=json.dumps(pod), check=False)
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted' in done.stderr


def test_images_are_found_by_digest_and_by_tag(cluster: Cluster, namespace: str) -> None:
    digest = busybox(cluster, "digest")
    tag = busybox(cluster, "tag")
    assert "@sha256:" in cluster.busybox
    tag["spec"]["containers"][0]["image"] = cluster.busybox.split("@")[0] + ":1"
    start(cluster, namespace, digest, tag)
    for pod in ("digest", "tag"):
        assert field(cluster, namespace, pod, ".status.containerStatuses[0].imageID") == cluster.busybox


def connects(cluster: Cluster, namespace: str, pod: str, address: str, port: int) -> bool:
    """Whether a pod gets a connection within two seconds."""
    command = f"timeout 4 nc -w 2 {address} {port} </dev/null >/dev/null && echo yes"
    return "yes" in shell(cluster, namespace, pod, command, check=False)


def policy(name: str, spec: dict[str, object]) -> dict[str, object]:
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return {**kind, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("place", [ON_CPU_NODE, ON_GPU_NODE], ids=["same node", "other node"])
def test_network_policies_are_enforced_at_a_pod(cluster: Cluster, namespace: str, place: dict[str, object]) -> None:
    server = busybox(cluster, "server", "httpd", "-f", "-p", "8080", "-h", "/tmp", **ON_CPU_NODE)
    start(cluster, namespace, server, busybox(cluster, "friend", **place), busybox(cluster, "stranger", **place))
    address = field(cluster, namespace, "server", ".status.podIP")
    assert connects(cluster, namespace, "stranger", address, 8080)
    friends = {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}
    create(
        cluster,
        namespace,
        policy("friends", {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [friends]}),
    )
    eventually(lambda: not connects(cluster, namespace, "stranger", address, 8080))
    assert connects(cluster, namespace, "friend", address, 8080)


@pytest.mark.parametrize("place", [ON_CPU_NODE, ON_GPU_NODE], ids=["node1", "node2"])
def test_network_policies_are_enforced_on_the_way_out(
    cluster: Cluster, namespace: str, place: dict[str, object]
) -> None:
    """Also towards the address of the pod's own node, where the store listens."""
    start(cluster, namespace, busybox(cluster, "pod", **place))
    assert connects(cluster, namespace, "pod", "10.77.0.1", 7070)
    assert connects(cluster, namespace, "pod", "10.77.0.1", 6443)
    store = {"to": [{"ipBlock": {"cidr": "10.77.0.1/32"}}], "ports": [{"port": 7070}]}
    create(cluster, namespace, policy("store", {"podSelector": {}, "policyTypes": ["Egress"], "egress": [store]}))
    eventually(lambda: not connects(cluster, namespace, "pod", "10.77.0.1", 6443))
    assert connects(cluster, namespace, "pod", "10.77.0.1", 7070)


def test_there_is_no_way_out(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, busybox(cluster, "pod"))
    assert cluster.run(["ip", "route", "show", "default"]).stdout == ""
    assert not connects(cluster, namespace, "pod", "192.0.2.1", 443)  # an address for documentation: nobody's


def test_gpus_are_given_out_and_run_out(cluster: Cluster, namespace: str) -> None:
    memory = cluster.kubectl("get", "node", "node2", r"--output=jsonpath={.metadata.labels.nvidia\.com/gpu\.memory}")
    assert memory == "8188"
    toleration = {"tolerations": ON_GPU_NODE["tolerations"]}
    start(cluster, namespace, busybox(cluster, "first", gpus=2, **toleration))
    create(cluster, namespace, busybox(cluster, "second", gpus=1, **toleration))
    create(cluster, namespace, busybox(cluster, "intolerant", gpus=1))
    assert field(cluster, namespace, "first", ".spec.nodeName") == "node2"
    for pod, reason in (("second", "Insufficient nvidia.com/gpu"), ("intolerant", "untolerated taint")):
        eventually(
            lambda pod=pod, reason=reason: reason in field(cluster, namespace, pod, ".status.conditions[*].message")
        )
    cluster.kubectl("-n", namespace, "delete", "pod", "first")
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/second", "--timeout=30s")


def test_gpus_come_back(cluster: Cluster) -> None:
    remove = '[{"op": "remove", "path": "/status/capacity/nvidia.com~1gpu"}]'
    cluster.kubectl("patch", "node", "node2", "--subresource=status", "--type=json", f"--patch={remove}")
    eventually(lambda: gpus(cluster) == "2,2")
    cluster.control("kubelet2", "restart")
    cluster.kubectl("wait", "--for=condition=Ready", "node/node2", "--timeout=60s")
    eventually(lambda: gpus(cluster) == "2,2")


def gpus(cluster: Cluster) -> str:
    path = r"{.status.capacity.nvidia\.com/gpu},{.status.allocatable.nvidia\.com/gpu}"
    return cluster.kubectl("get", "node", "node2", f"--output=jsonpath={path}")


@pytest.mark.parametrize("place", [ON_CPU_NODE, ON_GPU_NODE], ids=["node1", "node2"])
def test_pods_read_and_write_the_store(cluster: Cluster, namespace: str, place: dict[str, object]) -> None:
    """By signed URLs through nc: busybox speaks no S3. The test itself reads the store's folder."""
    store = cluster.store
    assert store
    key = f"{namespace}/object"
    start(cluster, namespace, busybox(cluster, "pod", **place))

    def request(verb: str, method: str, body: str = "") -> str:
        url = store.client().generate_presigned_url(method, Params={"Bucket": store.bucket, "Key": key})
        host, path = url.removeprefix("http://").split("/", 1)
        head = f"{verb} /{path} HTTP/1.0\\r\\nHost: {host}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
        name, port = host.split(":")
        escaped = head.replace("%", "%%")
        return shell(cluster, namespace, "pod", f"printf '{escaped}{body}' | nc -w 5 {name} {port}")

    assert "404" in request("GET", "get_object").splitlines()[0]
    assert "200" in request("PUT", "put_object", "from a pod").splitlines()[0]
    assert store.path(key).read_text() == "from a pod"
    assert request("GET", "get_object").endswith("from a pod")


def test_the_installed_command_reaches_the_api_server_and_the_store(cluster: Cluster) -> None:
    assert "halops" in cluster.halops("--version").stdout
    listing = cluster.python("import boto3; print([b['Name'] for b in boto3.client('s3').list_buckets()['Buckets']])")
    assert cluster.store is None or cluster.store.bucket in listing

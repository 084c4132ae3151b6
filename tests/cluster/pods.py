"""Small pods for tests of the cluster itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.handle import Cluster


def busybox(cluster: Cluster, name: str, *command: str, **more: Any) -> dict[str, Any]:
    """A pod that `restricted` admits, with one container that runs busybox; `more` goes into the pod's spec.

    `gpus=N` and `labels={...}` are taken out of `more` for the container and the pod.
    """
    gpus, labels = more.pop("gpus", 0), more.pop("labels", {"app": name})
    container = {
        "name": "busybox",
        "image": cluster.busybox,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command or ("sleep", "1000")),
        "resources": {"limits": {"nvidia.com/gpu": gpus}} if gpus else {},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "terminationGracePeriodSeconds": 1,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": security,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec | more}


ON_GPU_NODE: dict[str, Any] = {
    "nodeSelector": {"halops.dev/test-node": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
ON_CPU_NODE: dict[str, Any] = {"nodeSelector": {"halops.dev/test-node": "cpu"}}


def start(cluster: Cluster, namespace: str, *pods: dict[str, Any]) -> None:
    """Create pods and wait until they are ready."""
    create(cluster, namespace, *pods)
    names = [f"pod/{pod['metadata']['name']}" for pod in pods]
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", *names, "--timeout=60s")


def create(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Create objects and wait for nothing."""
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(items))


def field(cluster: Cluster, namespace: str, pod: str, path: str) -> str:
    """A field of a pod, by jsonpath."""
    return cluster.kubectl("-n", namespace, "get", "pod", pod, f"--output=jsonpath={{{path}}}")


def shell(cluster: Cluster, namespace: str, pod: str, command: str, *, check: bool = True) -> str:
    """What a command says in a pod."""
    return cluster.kubectl("-n", namespace, "exec", pod, "--", "sh", "-c", command, check=check)


def eventually(test: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, f"not true after {seconds:.0f} s"
        time.sleep(0.3)

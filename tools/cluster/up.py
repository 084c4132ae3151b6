"""Starting a cluster: what is missing is built first."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from tools.cluster import cgroups, components, configs, images, kueue, network, pki, small_images, traces
from tools.cluster.build import build
from tools.cluster.commands import s3_data, s3_keys
from tools.cluster.down import clean, remains
from tools.cluster.parts import program
from tools.cluster.shell import ClusterError, say, succeeds, wait_until
from tools.cluster.state import NODES, S3_PORT, S3_REGION, State, lock, node_ip

BUCKET = "halops"
SOCKET_LIMIT = 107  # bytes of a socket's path, Linux


def up(state: State, with_kueue: bool = False) -> None:
    """Start a cluster, or what has died of one. What never came up, or is dead as a whole, is cleared away first.

    Raises ClusterError.
    """
    if os.geteuid() != 0:
        raise ClusterError("the test cluster needs root: it makes network namespaces, mounts and cgroups")
    if len(str(state.containerd(1))) > SOCKET_LIMIT:
        raise ClusterError(f"{state.folder}: too long a path for a socket; set HALOPS_TEST_CLUSTER to a shorter one")
    with lock(state.folder / "lock"):
        if is_up(state) and components.alive(state):
            _complete(state)
        else:
            if remains(state):
                say("it is half up, or died as a whole: starting afresh")
                clean(state)
            build()
            _start(state)
        if with_kueue:
            kueue.install(state)


def is_up(state: State) -> bool:
    """Whether it came up and wasn't taken down. Single components may be dead: somebody may be testing that."""
    return state.description.exists() and all(state.namespace_path(node).exists() for node in NODES)


def describe(state: State) -> dict[str, Any]:
    """All that a test needs to know of a cluster."""
    return {
        "name": state.name,
        "kubeconfig": str(state.kubeconfig()),
        "kubectl": program("kubernetes", "kubectl"),
        "network_namespace": str(state.namespace_path(1)),
        "nodes": {f"node{node}": str(state.namespace_path(node)) for node in NODES},
        "pids": {name: str(state.run / f"{name}.pid") for name in components.names()},
        "logs": str(state.log),
        "s3": {
            "endpoint": f"http://{node_ip(1)}:{S3_PORT}",
            "region": S3_REGION,
            "bucket": BUCKET,
            "keys": str(s3_keys(state)),  # JSON
            "data": str(s3_data(state)),  # buckets are folders in it, objects files
        },
        "images": images.load_tested(state),
        "busybox": images.load(state, small_images.BUSYBOX, NODES),
    }


def refresh(state: State) -> None:
    """Give the nodes the images that buildah's store has now, and describe the cluster anew."""
    written = state.description.with_suffix(".new")
    written.write_text(json.dumps(describe(state), indent=2) + "\n")
    written.rename(state.description)


def _complete(state: State) -> None:
    """Start what has died of a cluster that is up, and give it the images of today."""
    for name in [name for name in components.names() if name not in {"kueue", *components.alive(state)}]:
        say(f"{name} was dead: starting it")
        components.start(state, name)
    refresh(state)
    say("it is up")


def _start(state: State) -> None:
    started = time.monotonic()
    _prepare(state)
    for name in ("s3", "etcd", "apiserver", "containerd1", "containerd2"):
        components.begin(state, name)
    for node in NODES:
        components.wait_for(state, f"containerd{node}")
    for name in (small_images.PAUSE, small_images.coredns()):
        images.load(state, name, NODES)
    components.wait_for(state, "apiserver")
    for name in components.names():
        if name != "kueue":
            components.begin(state, name)
    dns = (Path(__file__).parent / "coredns.yaml").read_text().replace("COREDNS", small_images.coredns())
    components.kubectl(state, "apply", "--server-side", "-f", "-", text=dns)
    _wait_for_nodes(state)
    say(f"nodes ready after {time.monotonic() - started:.0f} s")
    components.kubectl(state, "-n", "kube-system", "rollout", "status", "daemonset/coredns", "--timeout=60s")
    refresh(state)
    say(f"up after {time.monotonic() - started:.0f} s; kubectl: python -m tools.cluster kubectl ...")


def _prepare(state: State) -> None:
    """Everything that is there before the first process."""
    state.run.mkdir(parents=True)  # `down` looks for this one
    traces.note()
    network.create(state)
    cgroups.create(state)
    pki.create(state)
    keys = {"AWS_ACCESS_KEY_ID": f"test-{secrets.token_hex(8)}", "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30)}
    s3_keys(state).write_text(json.dumps(keys))
    (s3_data(state) / BUCKET).mkdir(parents=True)
    configs.write(state)
    small_images.make()


def _wait_for_nodes(state: State) -> None:
    nodes = [f"node/node{node}" for node in NODES]
    wait_until("the nodes to register", lambda: succeeds(*components.kubectl_words(state), "get", *nodes), 60, 0.3)
    components.kubectl(state, "wait", "--for=condition=Ready", *nodes, "--timeout=60s")
    gpus = "jsonpath={.status.allocatable.nvidia\\.com/gpu}=2"
    components.kubectl(state, "wait", f"--for={gpus}", f"node/node{NODES[1]}", "--timeout=60s")

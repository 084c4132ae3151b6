"""Faults for a stage that runs: what befalls pods, nodes and the control plane. Each returns when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster.place import Place

# The stage's own process: the child of tini, which is the container's first.
KILL = """
for d in /proc/[0-9]*; do
  p=${d#/proc/}; [ "$p" != 1 ] && [ "$p" != $$ ] && grep -qa halops $d/cmdline 2>/dev/null && kill -9 $p
done; true
"""


def kill_process(place: Place, run: str, stage: str) -> None:
    """`kill -9` of the container's process."""
    place.kubectl("exec", place.pod(run, stage), "--", "sh", "-c", KILL, check=False)


def delete_pod(place: Place, run: str, stage: str) -> None:
    """The pod is deleted."""
    place.kubectl("delete", "pod", place.pod(run, stage), "--wait=false")


def drain_node(place: Place, run: str, stage: str) -> None:
    """The pod's node is drained, and comes back."""
    pod = place.pod(run, stage)
    node = place.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
    place.cluster.node(int(node[-1]), "drain")
    place.cluster.node(int(node[-1]), "uncordon")


def restart_kubelet(place: Place, run: str, stage: str) -> None:
    """Both kubelets are restarted: the stage's and the coordinator's."""
    for number in (1, 2):
        place.cluster.control(f"kubelet{number}", "restart")


def delete_coordinator(place: Place, run: str, stage: str) -> None:
    """The coordinator's pod is deleted."""
    place.kubectl("delete", "pods", "-l", f"halops.dev/run-id={run},halops.dev/stage=coordinator", "--wait=false")


def restart_control_plane(place: Place, run: str, stage: str) -> None:
    """`kill -9` of API server and etcd; five seconds without them."""
    for component in ("apiserver", "etcd"):
        place.cluster.control(component, "kill")
    time.sleep(5)
    for component in ("etcd", "apiserver"):
        place.cluster.control(component, "start")


FAULTS: dict[str, Callable[[Place, str, str], None]] = {
    function.__name__: function
    for function in (
        kill_process, delete_pod, drain_node, restart_kubelet, delete_coordinator, restart_control_plane,
    )
}  # fmt: skip

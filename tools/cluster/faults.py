"""What goes wrong with nodes: one dies, comes back, is drained."""

from __future__ import annotations

from tools.cluster import cgroups, processes
from tools.cluster.components import kill, kubectl, start
from tools.cluster.shell import wait_until
from tools.cluster.state import State

AGENTS = ("kubelet", "proxy", "netpol", "containerd")


def lose(state: State, node: int) -> None:
    """A node dies at once: its agents, and every process of its pods. Its disk stays. (node1's control plane stays.)"""
    for agent in AGENTS:
        kill(state, f"{agent}{node}")
    processes.kill(processes.shims(state, node))

    def empty() -> bool:
        processes.kill(cgroups.processes(state, node))
        return not cgroups.processes(state, node)

    wait_until(f"the end of node{node}'s pods", empty)


def bring_back(state: State, node: int) -> None:
    """A lost node starts again."""
    for agent in reversed(AGENTS):
        start(state, f"{agent}{node}")


def drain(state: State, node: int, seconds: int = 120) -> None:
    """Evict a node's pods and keep new ones off, as an administrator does. `kubectl uncordon` ends it."""
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={seconds}s")
    kubectl(state, "drain", f"node{node}", *options)

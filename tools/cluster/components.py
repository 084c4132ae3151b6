"""Starting and stopping a cluster's components by name, and talking to its API server."""

from __future__ import annotations

import signal

from tools.cluster import processes
from tools.cluster.commands import command_of, names
from tools.cluster.network import inside
from tools.cluster.parts import program
from tools.cluster.shell import run, succeeds, wait_until
from tools.cluster.state import State

__all__ = ["alive", "begin", "kill", "kubectl", "kubectl_words", "names", "start", "stop", "wait_for"]


def start(state: State, name: str) -> None:
    """Start a component, and wait for those that others can't do without. Raises ClusterError."""
    begin(state, name)
    wait_for(state, name)


def begin(state: State, name: str) -> None:
    """Start a component, if it isn't there, and don't wait for it. Raises ClusterError."""
    command = command_of(state, name)
    processes.start(state, name, command.words, command.node, command.environment)


def wait_for(state: State, name: str) -> None:
    """Wait until containerd or the API server answers; of others nothing is known."""
    if name.startswith("containerd"):
        socket = state.containerd(int(name[-1]))
        wait_until(f"{name}'s socket", lambda: succeeds(program("containerd", "ctr"), "-a", socket, "version"))
    if name == "apiserver":
        words = [*kubectl_words(state), "get", "--raw", "/readyz"]
        wait_until("the API server", lambda: succeeds(*words), 120, 0.3)


def stop(state: State, name: str) -> None:
    """End a component as a service manager does: SIGTERM, and SIGKILL to one that takes too long."""
    command_of(state, name)
    processes.stop(state, name)


def kill(state: State, name: str) -> None:
    """End a component as a crash does: SIGKILL."""
    command_of(state, name)
    processes.stop(state, name, signal.SIGKILL)


def alive(state: State) -> dict[str, int]:
    """The components that run, each with its pid."""
    return {name: pid for name in names() if (pid := processes.pid(state, name))}


def kubectl_words(state: State) -> list[str]:
    """The words that kubectl begins with, in the first node's namespace, as an administrator."""
    options = [f"--kubeconfig={state.kubeconfig()}", f"--cache-dir={state.run}/kubectl"]
    return [*inside(state, 1), program("kubernetes", "kubectl"), *options]


def kubectl(state: State, *arguments: str, text: str | None = None) -> str:
    """kubectl's output; `text` is its standard input. Raises ClusterError."""
    return run(*kubectl_words(state), *arguments, text=text)

"""The cluster's processes: one pid file and one log each, in a node's network namespace.

A pid may be somebody else's by now. It counts as ours only while that process lives in the namespace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.cluster.network import inside
from tools.cluster.shell import ClusterError, wait_until
from tools.cluster.state import NODES, State


def start(state: State, name: str, command: Sequence[str], node: int, environment: dict[str, str]) -> None:
    """Start a process that outlives us, if it isn't there. Raises ClusterError when it ends at once."""
    if pid(state, name):
        return
    state.log.mkdir(parents=True, exist_ok=True)
    with (state.log / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [*inside(state, node), *command],
            env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    pid_file(state, name).write_text(f"{process.pid}\n")
    # until nsenter is through, it is a process like any other
    wait_until(f"{name} to start", lambda: process.poll() is not None or pid(state, name) is not None, 10, 0.005)
    if process.poll() is not None:
        raise ClusterError(f"{name} ended at once:\n{tail(state, name)}")


def pid_file(state: State, name: str) -> Path:
    """Where a process's pid is."""
    return state.run / f"{name}.pid"


def pid(state: State, name: str) -> int | None:
    """The pid of a process of ours that runs."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        number = int(pid_file(state, name).read_text())
        if _network(number) in _namespaces(state):
            return number
    return None


def stop(state: State, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 5) -> None:
    """Send a signal and wait; after `seconds` comes SIGKILL. A process that isn't there is no error."""
    running = pid(state, name)
    if running:
        kill({running}, number)
        with contextlib.suppress(ClusterError):
            wait_until(name, lambda: pid(state, name) is None, seconds, 0.05)
        if pid(state, name):
            kill({running}, signal.SIGKILL)
            wait_until(f"{name} to end", lambda: pid(state, name) is None, 10, 0.02)
    pid_file(state, name).unlink(missing_ok=True)


def kill(pids: set[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to processes; those that have gone are no error."""
    for each in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


def inhabitants(state: State) -> set[int]:
    """Every process in the nodes' namespaces, whoever started it. Pods have namespaces of their own."""
    ours = _namespaces(state)
    return {number for number in _all() if _network(number) in ours}


def shims(state: State, node: int) -> set[int]:
    """The processes that hold a node's containers for its containerd; they outlive it."""
    return {each for each in inhabitants(state) if str(state.containerd(node)) in _arguments(each)}


def tail(state: State, name: str, lines: int = 10) -> str:
    """The end of a process's log."""
    return "\n".join((state.log / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _arguments(number: int) -> list[str]:
    """A process's words, if it is a shim."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return words if Path(words[0]).name.startswith("containerd-shim") else []
    return []


def _network(number: int) -> int | None:
    """The inode of a process's network namespace; None for one that is gone, or a zombie."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{number}/ns/net").st_ino
    return None


def _namespaces(state: State) -> set[int]:
    found = set()
    for node in NODES:
        with contextlib.suppress(FileNotFoundError):
            found.add(state.namespace_path(node).stat().st_ino)
    return found

"""Taking a cluster down, also one that never came up: what lives in its namespaces, cgroups and folder is its own."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from tools.cluster import cgroups, network, processes, traces
from tools.cluster.shell import ClusterError, run, say, succeeds, wait_until
from tools.cluster.state import NODES, State, lock


def down(state: State) -> None:
    """Take a cluster down. Its logs stay, nothing else. Raises ClusterError that lists what can't be removed."""
    if not remains(state):
        say("there is none")
        return
    with lock(state.folder / "lock"):
        clean(state)
    say(f"down; its logs are in {state.log}")


def clean(state: State) -> None:
    """The same, under the lock."""
    state.description.unlink(missing_ok=True)
    wait_until("its processes to end", lambda: _kill(state), 20, 0.05)
    for path in reversed(_mounts(state)):  # the innermost first
        if not succeeds("umount", path):
            run("umount", "--lazy", path)
    with contextlib.suppress(OSError):  # what is in the way is reported below
        wait_until("its cgroups to empty", lambda: _delete_cgroups(state), 10)
    network.delete(state)
    traces.undo(state)
    if left := [what for what in remains(state) if what != str(state.run)]:
        raise ClusterError("left behind: " + ", ".join(left))
    for folder in (state.run, state.pki):  # nothing is mounted in them any more
        shutil.rmtree(folder, ignore_errors=True)


def remains(state: State) -> list[str]:
    """What there is of a cluster: processes, mounts, cgroups, namespaces, files."""
    pids = sorted(processes.inhabitants(state) | cgroups.processes(state))
    return [
        *(f"process {pid}" for pid in pids),
        *(f"mount {path}" for path in _mounts(state)),
        *(f"cgroup {path}" for path in cgroups.left(state)),
        *(f"namespace {state.namespace(node)}" for node in NODES if state.namespace_path(node).exists()),
        *([str(state.run)] if state.run.exists() else []),
    ]


def _kill(state: State) -> bool:
    """Kill what there is; whether there was nothing. A process may have started another meanwhile: come again."""
    found = processes.inhabitants(state) | cgroups.processes(state)
    processes.kill(found)
    return not found


def _delete_cgroups(state: State) -> bool:
    with contextlib.suppress(OSError):
        cgroups.delete(state)
    return not cgroups.left(state)


def _mounts(state: State) -> list[Path]:
    """Mounts in the cluster's folder, in the order in which they were made."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    paths = [Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point)) for point in points]
    return [path for path in paths if path.is_relative_to(state.run)]

"""A cgroup for each node's pods, in every hierarchy of version 1 or in the one of version 2."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from tools.cluster.state import NODES, State

MOUNT: Final = Path("/sys/fs/cgroup")


def create(state: State) -> None:
    """Make them; the kubelets expect to find theirs."""
    for hierarchy in _hierarchies():
        for folder in (hierarchy / state.name, *(hierarchy / state.name / f"node{node}" for node in NODES)):
            _hand_down(folder.parent)
            folder.mkdir(exist_ok=True)
            _copy_cpuset(folder)


def processes(state: State, node: int | None = None) -> set[int]:
    """Every process of a node's pods, or of both nodes'."""
    found = set[int]()
    for hierarchy in _hierarchies():
        root = hierarchy / state.name / (f"node{node}" if node else "")
        for path in root.glob("**/cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in path.read_text().split())
    return found - {0}


def delete(state: State) -> None:
    """Remove them, innermost first. Raises OSError when processes are left in one."""
    for hierarchy in _hierarchies():
        root = hierarchy / state.name
        for folder in sorted([root, *root.glob("**/")], key=lambda path: -len(path.parts)):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()


def left(state: State) -> list[Path]:
    """Those that are still there."""
    return [hierarchy / state.name for hierarchy in _hierarchies() if (hierarchy / state.name).exists()]


def _hierarchies() -> list[Path]:
    if (MOUNT / "cgroup.controllers").exists():
        return [MOUNT]
    # named twice where two controllers share one (cpu,cpuacct)
    return sorted({path.parent.resolve() for path in MOUNT.glob("*/cgroup.procs")})


def _hand_down(folder: Path) -> None:
    """In version 2 a cgroup's children have the controllers that it gives them."""
    if folder.is_relative_to(MOUNT) and (folder / "cgroup.subtree_control").exists():
        controllers = (folder / "cgroup.controllers").read_text().split()
        if controllers and folder.name != "unified":
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def _copy_cpuset(folder: Path) -> None:
    """In version 1 a new cpuset has no processors, and takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if folder.resolve().is_relative_to(MOUNT / "cpuset") and (folder / name).exists():
            (folder / name).write_text((folder.parent / name).read_text())

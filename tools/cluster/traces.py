"""What a cluster's programs do to the machine outside its folder, noted before and put right afterwards."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any, Final

from tools.cluster.shell import succeeds
from tools.cluster.state import State, cache

# A kubelet sets these for the whole machine, without being asked.
SYSCTLS: Final = (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
)  # fmt: skip
# Paths that containerd, its shims, the kubelet, the network plugins and Kueue have built in.
SOCKETS: Final = Path("/run/containerd/s")
LINKS: Final = Path("/var/log/containers")
FOLDERS: Final = (
    "/run/containerd", "/run/netns", "/var/lib/cni", "/var/lib/kubelet", str(LINKS), "/var/log/pods",
    "/opt/cni", "/opt/containerd", "/etc/cni", "/etc/containerd", "/etc/kueue", "/usr/libexec/kubernetes",
)  # fmt: skip


def note(state: State) -> None:
    """Write down how the machine is, unless a cluster has changed it already."""
    path = _path()
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {
        "sysctls": {name: _sysctl(name).read_text().strip() for name in SYSCTLS if _sysctl(name).exists()},
        "folders": [folder for folder in FOLDERS if Path(folder).exists()],
        "sockets": [entry.name for entry in SOCKETS.glob("*")],
    }
    path.write_text(json.dumps(before, indent=2))


def undo(state: State) -> None:
    """Put right what this cluster did, and, after the last one, what all did."""
    _remove_links(state)
    others = list(Path("/run/netns").glob("halops-*"))
    path = _path()
    if others or not path.exists():
        return
    _restore(json.loads(path.read_text()))
    path.unlink()


def _restore(before: dict[str, Any]) -> None:
    for name, value in before["sysctls"].items():
        if _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)
    for folder in set(FOLDERS) - set(before["folders"]):
        if Path(folder).is_mount():  # `ip netns` mounts its folder upon itself
            succeeds("umount", folder)
        shutil.rmtree(folder, ignore_errors=True)
    for entry in SOCKETS.glob("*"):
        if entry.name not in before["sockets"] and not _listens(entry):
            entry.unlink()


def _listens(path: Path) -> bool:
    """Whether a process still has this socket; those of shims that were killed stay behind."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return True
    return False


def _remove_links(state: State) -> None:
    """A kubelet links each container's log into one folder, wherever its pods' logs are."""
    for link in LINKS.glob("*.log"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(state.folder):
                link.unlink()


def _path() -> Path:
    return cache() / "cluster" / "before.json"


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name

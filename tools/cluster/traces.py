"""What a cluster's programs do to the machine outside its folder, noted before and put right afterwards."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from glob import glob
from pathlib import Path
from typing import Any, Final

from tools.cluster.shell import succeeds
from tools.cluster.state import State, cache

# A kubelet sets these for the whole machine, without being asked.
SYSCTLS: Final = (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
)  # fmt: skip
# Paths that containerd's shims, the kubelets, iproute2, iptables and Kueue have built in.
LINKS: Final = Path("/var/log/containers")
PATHS: Final = (
    "/run/containerd", "/run/netns", "/run/xtables.lock", "/var/lib/cni", "/var/lib/kubelet", str(LINKS), "/etc/kueue",
)  # fmt: skip
# What a machine with containers of its own may have others of: shims' sockets, results of network plugins.
ENTRIES: Final = ("/run/containerd/s/*", "/var/lib/cni/results/cni-loopback-*", "/var/lib/cni/results/halops-*")


def note() -> None:
    """Write down how the machine is, unless a cluster has changed it already."""
    path = _path()
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {
        "sysctls": {name: _sysctl(name).read_text().strip() for name in SYSCTLS if _sysctl(name).exists()},
        "paths": [path for path in PATHS if Path(path).exists()],
        "entries": _entries(),
    }
    written = path.with_suffix(".new")
    written.write_text(json.dumps(before, indent=2))
    written.rename(path)


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
    for path in set(PATHS) - set(before["paths"]):
        succeeds("umount", path)  # `ip netns` mounts its folder upon itself
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(path).unlink()
    for entry in set(_entries()) - set(before["entries"]):
        if not _listens(entry):
            Path(entry).unlink()


def _entries() -> list[str]:
    return [path for pattern in ENTRIES for path in glob(pattern)]


def _listens(path: str) -> bool:
    """Whether a process still has this socket; those of shims that were killed stay behind."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
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

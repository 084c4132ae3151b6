"""The Go programs that the cluster is made of, in parts that are built, cached and pinned one by one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.cluster.shell import ClusterError
from tools.cluster.state import cache

GO: Final = Path(__file__).parent / "go"
FORMAT: Final = 1  # one more when build.py changes what it makes of the same sources


@dataclass(frozen=True)
class Part:
    """Programs that are built together: packages, each below `prefix` unless it is one of our own."""

    name: str
    minutes: float  # cold, on two cores: for the time that is left
    module: str
    prefix: str = ""
    packages: tuple[str, ...] = ()
    own: tuple[str, ...] = ()  # folders of the module
    tags: str = ""

    @property
    def source(self) -> Path:
        """The folder of the Go module."""
        return GO / self.module

    @property
    def targets(self) -> list[str]:
        """What `go build` is given."""
        return [f"{self.prefix}/{package}" for package in self.packages] + [f"./{package}" for package in self.own]

    def key(self) -> str:
        """A digest of all that decides what comes out: pins, packages, our own sources."""
        digest = hashlib.sha256(repr((FORMAT, self.targets, self.tags)).encode())
        own = [path for package in self.own for path in (self.source / package).glob("*.go")]
        for path in (self.source / "go.mod", self.source / "go.sum", *sorted(own)):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where its programs are, once they are built."""
        return cache() / "cluster" / f"{self.name}-{self.key()}"

    @property
    def built(self) -> bool:
        """Whether they are."""
        return self.folder.exists()


# The longest first, and Kueue last: a cluster comes up without it. Three modules, since no one version of some
# libraries (cri-api, etcd's) suits all; what is in one module shares what it compiles.
_ALL: Final = (
    Part(
        "kubernetes",
        minutes=5.5,
        module="kubernetes",
        prefix="k8s.io/kubernetes/cmd",
        packages=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
        own=("etcd",),
    ),
    Part(
        "containerd",
        minutes=1,
        module="containerd",
        prefix="github.com/containerd/containerd/v2/cmd",
        packages=("containerd", "containerd-shim-runc-v2", "ctr"),
        own=("linkimg",),
        tags="no_btrfs,no_devmapper,no_zfs,no_aufs",
    ),
    Part(
        "cni",
        minutes=0.2,
        module="kubernetes",
        prefix="github.com/containernetworking/plugins/plugins",
        packages=("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"),
    ),
    Part("coredns", minutes=1, module="coredns", own=(".",)),
    Part("netpol", minutes=0.2, module="kubernetes", own=("netpol",)),
    Part("kueue", minutes=1.5, module="kubernetes", prefix="sigs.k8s.io/kueue/cmd", packages=("kueue",)),
)
PARTS: Final = {part.name: part for part in _ALL}


def program(part: str, name: str) -> str:
    """The path of a program that was built. Raises ClusterError when it wasn't."""
    path = PARTS[part].folder / name
    if not path.exists():
        raise ClusterError(f"{name} isn't built: python -m tools.cluster build")
    return str(path)


def pinned(word: str, module: str = "kubernetes") -> str:
    """The version that a module's go.mod has after a word: a required module's name, or `go`."""
    found = re.search(rf"^\s*{re.escape(word)} v?([\d.]+)", (GO / module / "go.mod").read_text(), re.MULTILINE)
    assert found, word
    return found[1]

"""Where one cluster keeps everything that it owns, and what its parts are called."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
NODES: Final = (1, 2)  # node1 is the CPU node and holds the control plane; node2 has the GPUs, which are made up
GPU_NODE: Final = 2
API: Final = "https://10.77.0.1:6443"
SERVICES: Final = "10.96.0.0/16"
PODS: Final = "10.78.0.0/16"
DNS: Final = "10.96.0.10"
S3_PORT: Final = 7070
S3_REGION: Final = "us-east-1"


def cache() -> Path:
    """The user's cache folder of this project, as halops.names.cache_folder has it."""
    if given := os.environ.get("HALOPS_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halops"


def node_ip(node: int) -> str:
    """A node's address, the same for its kubelet and for all that listens beside it."""
    return f"10.77.0.{node}"


def node_pods(node: int) -> str:
    """The addresses of a node's pods."""
    return f"10.78.{node}.0/24"


@dataclass(frozen=True)
class State:
    """One cluster's folder. Names outside it carry a digest of its path: two clusters don't meet."""

    folder: Path

    @classmethod
    def default(cls) -> State:
        """The folder that HALOPS_TEST_CLUSTER names, else one in the user's cache."""
        given = os.environ.get("HALOPS_TEST_CLUSTER")
        return cls((Path(given) if given else cache() / "test-cluster").absolute())

    @property
    def name(self) -> str:
        """What the cluster's cgroups are called; its network namespaces are NAME-1 and NAME-2."""
        return "halops-" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]

    @property
    def run(self) -> Path:
        """What lives as long as the cluster: configurations, sockets, pids, containers, data."""
        return self.folder / "run"

    @property
    def pki(self) -> Path:
        """Certificates and kubeconfigs."""
        return self.folder / "pki"

    @property
    def log(self) -> Path:
        """One file a process; what `down` leaves."""
        return self.folder / "log"

    @property
    def description(self) -> Path:
        """What others need to know of the running cluster, as JSON. It is there once the cluster is up."""
        return self.folder / "cluster.json"

    def namespace(self, node: int) -> str:
        """A node's network namespace."""
        return f"{self.name}-{node}"

    def namespace_path(self, node: int) -> Path:
        """What `nsenter --net=` takes."""
        return Path("/var/run/netns") / self.namespace(node)

    def kubeconfig(self, who: str = "admin") -> Path:
        """The kubeconfig of an administrator, or of one of the cluster's parts."""
        return self.pki / f"{who}.kubeconfig"

    def containerd(self, node: int) -> Path:
        """The socket of a node's containerd."""
        return self.run / f"containerd{node}.sock"

    def read(self) -> dict[str, Any]:
        """The description of a cluster that is up. Raises FileNotFoundError."""
        return dict(json.loads(self.description.read_text()))


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a file's lock; whoever comes second waits. The kernel lets go of it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield

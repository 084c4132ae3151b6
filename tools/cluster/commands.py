"""How each of a cluster's processes is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.cluster import configs
from tools.cluster.network import QUEUE
from tools.cluster.parts import PARTS, program
from tools.cluster.shell import ClusterError, run
from tools.cluster.state import NODES, ROOT, S3_PORT, S3_REGION, SERVICES, State, node_ip

ETCD: Final = "http://127.0.0.1:2379"
NODE_GRACE: Final = "16s"  # after that long without a word a node is NotReady


@dataclass(frozen=True)
class Command:
    """A program's words, the node that it runs on, and what its environment has more."""

    words: list[str]
    node: int = 1
    environment: dict[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """Every component, in an order in which they can be started."""
    return [
        *("s3", "etcd", "apiserver", "cm", "sched"),
        *(f"{name}{node}" for name in PER_NODE for node in NODES),
        *("gpu", "kueue"),
    ]


def command_of(state: State, name: str) -> Command:
    """How a component is started. Raises ClusterError for an unknown name."""
    if name not in names():
        raise ClusterError(f"no component {name!r}; there are: {' '.join(names())}")
    if name[-1].isdigit() and name[:-1] in PER_NODE:
        return PER_NODE[name[:-1]](state, int(name[-1]))
    return SINGLE[name](state)


def _etcd(state: State) -> Command:
    # without fsync: a killed etcd loses nothing, only a machine that stops would
    options = [f"--data-dir={state.run}/etcd", "--unsafe-no-fsync", "--log-level=warn"]
    addresses = [
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]
    return Command([program("kubernetes", "etcd"), *options, *addresses])


def _apiserver(state: State) -> Command:
    pki = state.pki
    return Command([
        program("kubernetes", "kube-apiserver"),
        f"--etcd-servers={ETCD}",
        f"--advertise-address={node_ip(1)}",
        "--secure-port=6443",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
    ])  # fmt: skip


def _cm(state: State) -> Command:
    return Command([
        program("kubernetes", "kube-controller-manager"),
        *_kubeconfigs(state, "cm"),
        f"--service-account-private-key-file={state.pki}/sa.key",
        f"--root-ca-file={state.pki}/ca.crt",
        f"--cluster-signing-cert-file={state.pki}/ca.crt",
        f"--cluster-signing-key-file={state.pki}/ca.key",
        "--use-service-account-credentials",
        f"--flex-volume-plugin-dir={state.run}/volume-plugins",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={NODE_GRACE}",
    ])  # fmt: skip


def _sched(state: State) -> Command:
    return Command([program("kubernetes", "kube-scheduler"), *_kubeconfigs(state, "sched")])


def _kubeconfigs(state: State, who: str) -> list[str]:
    options = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [*(f"--{option}={state.kubeconfig(who)}" for option in options), "--leader-elect=false"]


def _s3(state: State) -> Command:
    binary = run("bash", ROOT / "tools" / "versitygw.sh").strip().splitlines()[-1]
    keys = json.loads(s3_keys(state).read_text())
    environment = {"ROOT_ACCESS_KEY": keys["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": keys["AWS_SECRET_ACCESS_KEY"]}
    address = f"{node_ip(1)}:{S3_PORT}"
    words = [binary, "--port", address, "--region", S3_REGION, "--quiet", "posix", str(s3_data(state))]
    return Command(words, 1, environment)


def s3_keys(state: State) -> Path:
    """The store's key pair, as JSON under the names that AWS' tools read."""
    return state.pki / "s3.json"


def s3_data(state: State) -> Path:
    """The folder whose folders are the store's buckets."""
    return state.run / "s3"


def _gpu(state: State) -> Command:
    environment = {"PYTHONPATH": str(ROOT), "HALOPS_TEST_CLUSTER": str(state.folder)}
    return Command([sys.executable, "-m", "tools.cluster.gpu"], 1, environment)


def _kueue(state: State) -> Command:
    config, kubeconfig = state.run / "kueue.yaml", state.kubeconfig("kueue")
    words = [program("kueue", "kueue"), f"--config={config}", f"--kubeconfig={kubeconfig}"]
    return Command(words, 1, {"POD_NAMESPACE": "kueue-system"})


def _containerd(state: State, node: int) -> Command:
    path = f"{PARTS['containerd'].folder}:/usr/sbin:/usr/bin:/sbin:/bin"  # its shim, and Debian's runc
    words = [program("containerd", "containerd"), "-c", str(configs.containerd_path(state, node))]
    return Command(words, node, {"PATH": path})


def _kubelet(state: State, node: int) -> Command:
    labels = ",".join(f"{name}={value}" for name, value in configs.node_labels(node).items())
    return Command(
        [
            program("kubernetes", "kubelet"),
            f"--config={configs.kubelet_path(state, node)}",
            f"--kubeconfig={state.kubeconfig(f'node{node}')}",
            f"--root-dir={state.run}/kubelet{node}",
            f"--hostname-override=node{node}",
            f"--node-ip={node_ip(node)}",
            f"--node-labels={labels}",
        ],
        node,
    )


def _proxy(state: State, node: int) -> Command:
    return Command([program("kubernetes", "kube-proxy"), f"--config={configs.proxy_path(state, node)}"], node)


def _netpol(state: State, node: int) -> Command:
    words = [program("netpol", "netpol"), f"--kubeconfig={state.kubeconfig('netpol')}", f"--node=node{node}"]
    return Command([*words, f"--queue={QUEUE}"], node)


SINGLE: Final[dict[str, Callable[[State], Command]]] = {
    "s3": _s3, "etcd": _etcd, "apiserver": _apiserver, "cm": _cm, "sched": _sched, "gpu": _gpu, "kueue": _kueue,
}  # fmt: skip
PER_NODE: Final[dict[str, Callable[[State, int], Command]]] = {
    "containerd": _containerd, "kubelet": _kubelet, "proxy": _proxy, "netpol": _netpol,
}  # fmt: skip

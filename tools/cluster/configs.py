"""The configuration files of containerd, its network plugins, the kubelets and the kube-proxies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from tools.cluster.parts import PARTS
from tools.cluster.small_images import PAUSE
from tools.cluster.state import DNS, GPU_NODE, NODES, PODS, State, node_ip, node_pods

# What GPU feature discovery says of a node with two 8 GB cards.
GPU_LABELS: Final = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4060",
    "nvidia.com/gpu.family": "ada-lovelace",
    "nvidia.com/gpu.memory": "8188",
    "nvidia.com/gpu.count": "2",
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "9",
    "halops.dev/test-node": "gpu",
}
CPU_LABELS: Final = {"halops.dev/test-node": "cpu"}
GPU_TAINT: Final = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def write(state: State) -> None:
    """Write every file that a process will be started with."""
    (state.run / "resolv.conf").write_text("")  # what pods with dnsPolicy Default get: no server
    for node in NODES:
        for folder in (f"containerd{node}", f"cni{node}", f"kubelet{node}"):
            (state.run / folder).mkdir(parents=True, exist_ok=True)
        containerd_path(state, node).write_text(_containerd(state, node))
        (state.run / f"cni{node}" / "10-pods.conflist").write_text(json.dumps(_cni(state, node)))
        kubelet_path(state, node).write_text(yaml.safe_dump(_kubelet(state, node)))
        proxy_path(state, node).write_text(yaml.safe_dump(_proxy(state, node)))


def containerd_path(state: State, node: int) -> Path:
    """A containerd's configuration."""
    return state.run / f"containerd{node}.toml"


def kubelet_path(state: State, node: int) -> Path:
    """A kubelet's configuration."""
    return state.run / f"kubelet{node}.yaml"


def proxy_path(state: State, node: int) -> Path:
    """A kube-proxy's configuration."""
    return state.run / f"proxy{node}.yaml"


def node_labels(node: int) -> dict[str, str]:
    """The labels that a node registers with."""
    return GPU_LABELS if node == GPU_NODE else CPU_LABELS


def _containerd(state: State, node: int) -> str:
    """A containerd that shares nothing with another, and may not be allowed to set what a node's usually sets."""
    home = state.run / f"containerd{node}"
    return f"""version = 3
root = '{home}/root'
state = '{home}/state'
disabled_plugins = ['io.containerd.nri.v1.nri']

[grpc]
address = '{state.containerd(node)}'

[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
pinned_images.sandbox = '{PAUSE}'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
netns_mounts_under_state_dir = true
cni.bin_dirs = ['{PARTS["cni"].folder}']
cni.conf_dir = '{state.run}/cni{node}'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
options.SystemdCgroup = false
options.Root = '{home}/runc'

[plugins.'io.containerd.internal.v1.opt']
path = '{home}/opt'
"""


def _cni(state: State, node: int) -> dict[str, Any]:
    """Pods hang on a bridge; their packets leave it with their own addresses."""
    ipam = {
        "type": "host-local",
        "dataDir": f"{state.run}/ipam{node}",
        "ranges": [[{"subnet": node_pods(node)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    return {"cniVersion": "1.0.0", "name": f"{state.name}-pods", "plugins": [bridge, ports]}


def _kubelet(state: State, node: int) -> dict[str, Any]:
    """A kubelet beside another on one machine whose disk may be rather full."""
    home = state.run / f"kubelet{node}"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node_ip(node),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{state.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{state.pki}/node{node}.crt",
        "tlsPrivateKeyFile": f"{state.pki}/node{node}.key",
        "registerWithTaints": [GPU_TAINT] if node == GPU_NODE else [],
        "containerRuntimeEndpoint": f"unix://{state.containerd(node)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{state.name}/node{node}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{state.run}/resolv.conf",
        "podLogsDir": f"{home}/logs",
        "volumePluginDir": f"{home}/volume-plugins",
        # a node is gone after 16 s (see the controller manager), and says sooner than usual that it isn't
        "nodeStatusUpdateFrequency": "2s",
        # images have come by hard links, and nothing can bring them back
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "100h",
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
    }


def _proxy(state: State, node: int) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(state.kubeconfig("proxy"))},
        "clusterCIDR": PODS,
        "hostnameOverride": f"node{node}",
        "nodePortAddresses": ["primary"],
        "oomScoreAdj": 0,
        # these three would set the whole machine's
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }

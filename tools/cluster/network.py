"""Two network namespaces, a node each, joined by one cable. Neither has a route out."""

from __future__ import annotations

from pathlib import Path

from tools.cluster.shell import run, succeeds
from tools.cluster.state import NODES, PODS, SERVICES, State, node_ip, node_pods

QUEUE = 98  # netfilter queue of the NetworkPolicy agent
SYSCTLS = ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1", "net.ipv4.conf.all.route_localnet=1")


def inside(state: State, node: int) -> list[str]:
    """The words that run a command in a node's namespace. (`ip netns exec` would mount another /sys.)"""
    return ["nsenter", f"--net={state.namespace_path(node)}"]


def exists(state: State) -> bool:
    """Whether the cluster has a namespace."""
    return any(state.namespace_path(node).exists() for node in NODES)


def create(state: State) -> None:
    """Make the namespaces, the cable, and the routes to the other node's pods and to Services."""
    if not Path("/proc/sys/net/bridge").exists():
        run("modprobe", "br_netfilter")
    for node in NODES:
        run("ip", "netns", "add", state.namespace(node))
    first, second = NODES
    run("ip", "link", "add", "eth0", "netns", state.namespace(first), "type", "veth",
        "peer", "name", "eth0", "netns", state.namespace(second))  # fmt: skip
    for node in NODES:
        other = node_ip(sum(NODES) - node)
        ip = [*inside(state, node), "ip"]
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "address", "add", f"{node_ip(node)}/24", "dev", "eth0")
        run(*ip, "link", "set", "eth0", "up")
        run(*ip, "route", "add", node_pods(sum(NODES) - node), "via", other)
        run(*ip, "route", "add", SERVICES, "via", other)  # packets must get as far as kube-proxy's rules
        run(*inside(state, node), "sysctl", "-qw", *SYSCTLS)
        queue_new_connections(state, node)


def queue_new_connections(state: State, node: int) -> None:
    """Hand the first packet of each connection from or to a pod to the NetworkPolicy agent; no agent, no connection.

    The agent adds rules of its own by nftables. Not every kernel has nftables' queue, and those rules don't see what a
    pod sends to its own node's address, where the store listens. Root's own packets pass: the kubelet's probes.
    """
    rules = f"""*mangle
:POLICY -
-A POLICY -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
-A POLICY -j NFQUEUE --queue-num {QUEUE}
-A POSTROUTING -m owner --uid-owner 0 -j RETURN
-A POSTROUTING -s {PODS} -j POLICY
-A POSTROUTING -d {PODS} -j POLICY
-A INPUT -s {node_pods(node)} -j POLICY
COMMIT
"""
    run(*inside(state, node), "iptables-legacy-restore", text=rules)


def delete(state: State) -> None:
    """Remove what there is of it."""
    for node in NODES:
        if state.namespace_path(node).exists():
            succeeds("ip", "netns", "delete", state.namespace(node))

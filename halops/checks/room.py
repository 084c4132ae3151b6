"""Pure: whether the nodes have room for every stage, now or at all, and a GPU that is large enough."""

from __future__ import annotations

from collections.abc import Sequence

from halops.checks.base import Check, fail, ok, skip, warn
from halops.checks.nodes import Node, StageFit, lacking_now
from halops.manifests.needs import Needs
from halops.names import GPU_MEMORY_LABEL, GPU_RESOURCE
from halops.sections import Cluster
from halops.units import MIB, human_gib


def gpu_nodes(
    rows: Sequence[StageFit], nodes: Sequence[Node], needs: dict[str, Needs], cluster: Cluster
) -> list[Check]:
    """Whether a node has a GPU that is large enough; whether it is free, or who holds it."""
    wanted = [row for row in rows if row.gpus]
    if not wanted:
        return [skip("GPU node", "not needed by this profile")]
    lacking = next((row for row in wanted if not row.holding), None)
    if lacking:
        return [fail("GPU node", f"{lacking.stage} fits on none: {lacking.reason}", _gpu_remedy(lacking.reason))]
    row = wanted[0]
    by_name = {node.name: node for node in nodes}
    listed = ", ".join(_card(by_name[name]) for name in row.holding[:4])
    more = f" and {len(row.holding) - 4} more" if len(row.holding) > 4 else ""
    found = ok("GPU node", f"{listed}{more}")
    return [found, _gpu_free(row, [by_name[name] for name in row.holding], needs[row.stage], cluster.nodes)]


def _card(node: Node) -> str:
    memory = f", {human_gib(node.gpu_mib * MIB)}" if node.gpu_mib else ""
    product = node.labels.get("nvidia.com/gpu.product", "GPU")
    return f"{node.name} ({node.has.get(GPU_RESOURCE, 0):.0f} x {product}{memory})"


def _gpu_remedy(reason: str) -> str:
    adds = "where an autoscaler adds such nodes, submit all the same"
    if "taint" in reason:
        return f"allow the taint in cluster.tolerations; {adds}"
    if GPU_MEMORY_LABEL in reason:
        return (
            "install GPU feature discovery, or set cluster.gpu.memory_gib: 0 and choose nodes by cluster.node_selector"
        )
    if "has a GPU of" in reason:
        return f"take a profile for smaller cards (`halops plan`), or add a larger node; {adds}"
    return f"add a node that fits, or ask for less in cluster.resources; {adds}"


def _gpu_free(row: StageFit, nodes: Sequence[Node], need: Needs, pods: int) -> Check:
    if row.free is None:
        return skip("GPU free", "we may not list the pods of other namespaces; k8s/components/node-reader allows it")
    if len(row.free) >= pods:
        return ok("GPU free", f"now on {', '.join(row.free)}")
    said = "; ".join(
        f"{node.name}: {lacking_now(node, need)}{_held(node)}" for node in nodes if node.name not in row.free
    )
    wanted = f"{pods} nodes wanted; " if pods > 1 else ""
    return warn("GPU free", wanted + said, "training waits until it is; with Kueue (k8s/components/kueue) in a queue")


def _held(node: Node) -> str:
    if not node.holders:
        return ""
    return f", held by {', '.join(f'{item.pod} ({item.gpus})' for item in node.holders)}"


def cpu_nodes(rows: Sequence[StageFit], total: int) -> Check:
    """Whether the stages without a GPU fit on nodes."""
    wanted = [row for row in rows if not row.gpus]
    if lacking := [row for row in wanted if not row.holding]:
        said = "; ".join(f"{row.stage} fits on none: {row.reason}" for row in lacking)
        return fail(
            "nodes", said, "add a node that fits, or set cluster.resources, node_selector or tolerations in the profile"
        )
    busy = [row.stage for row in wanted if row.free == ()]
    if busy:
        return warn("nodes", f"no room at the moment for {', '.join(busy)}", "they wait until other pods end")
    fewest = min((len(row.holding) for row in wanted), default=total)
    return ok(
        "nodes",
        f"every stage without a GPU fits on {fewest} of {total}"
        if fewest < total
        else f"{total}, each fits every such stage",
    )

"""Pure: stages' needs against a cluster's nodes: which could hold a stage, which can now, and who holds the GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from halops.artifact import Frozen
from halops.checks.view import Object
from halops.manifests.needs import COORDINATOR_NEEDS, Needs
from halops.manifests.pods import GPU_MEMORY_SHARE
from halops.names import COORDINATOR, GPU_MEMORY_LABEL, GPU_RESOURCE
from halops.quantities import parse_quantity
from halops.sections import Cluster, Toleration
from halops.units import GIB, MIB, human_bytes, human_gib

RESOURCES = ("cpu", "memory", "ephemeral-storage", GPU_RESOURCE)
_GPU_TAINT = Toleration(key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")
_KEEPS_AWAY = ("NoSchedule", "NoExecute")


@dataclass(frozen=True)
class Holder:
    """A pod that holds GPUs."""

    pod: str
    gpus: int


@dataclass(frozen=True)
class Node:
    """A node: what it has, what its pods have asked for, and who may come. Amounts in cores, bytes and pieces."""

    name: str
    ready: bool
    open: bool
    labels: dict[str, str]
    taints: tuple[Object, ...]
    has: dict[str, float]
    asked: dict[str, float] = field(default_factory=dict)
    holders: tuple[Holder, ...] = ()

    @property
    def gpu_mib(self) -> int:
        """Memory of a card by GPU feature discovery, MiB; 0 without the label."""
        text = self.labels.get(GPU_MEMORY_LABEL, "0")
        return int(text) if text.isdigit() else 0

    def free(self, resource: str) -> float:
        """What nobody has asked for."""
        return self.has.get(resource, 0) - self.asked.get(resource, 0)


class StageFit(Frozen):
    """One stage against the nodes.

    Args:
        holding: names of nodes that could hold it if they were empty.
        free: those that can now; None if pods may not be seen.
        reason: why the most suitable of the others can't; empty if any could.
    """

    stage: str
    cpu: str
    memory_bytes: int
    disk_bytes: int
    gpus: int
    holding: tuple[str, ...]
    free: tuple[str, ...] | None
    reason: str = ""


def read_nodes(nodes: Iterable[Object], pods: Iterable[Object] | None) -> list[Node]:
    """Nodes as the checks need them; without pods nothing counts as asked for."""
    by_node: dict[str, list[Object]] = {}
    for pod in pods or ():
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            by_node.setdefault(str(pod.get("spec", {}).get("nodeName", "")), []).append(pod)
    return [_node(item, by_node.get(str(item["metadata"]["name"]), [])) for item in nodes]


def _node(item: Object, pods: Sequence[Object]) -> Node:
    spec, status = item.get("spec", {}), item.get("status", {})
    ready = any(
        found.get("type") == "Ready" and found.get("status") == "True" for found in status.get("conditions") or []
    )
    asked = [pod_requests(pod) for pod in pods]
    holders = [
        Holder(f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}", int(amounts[GPU_RESOURCE]))
        for pod, amounts in zip(pods, asked, strict=True)
        if amounts[GPU_RESOURCE]
    ]
    return Node(
        name=str(item["metadata"]["name"]),
        ready=ready,
        open=not spec.get("unschedulable"),
        labels=dict(item["metadata"].get("labels") or {}),
        taints=tuple(taint for taint in spec.get("taints") or () if taint.get("effect") in _KEEPS_AWAY),
        has={name: parse_quantity(amount) for name, amount in (status.get("allocatable") or {}).items()},
        asked={name: sum(amounts[name] for amounts in asked) for name in RESOURCES},
        holders=tuple(holders),
    )


def pod_requests(pod: Object) -> dict[str, float]:
    """What a pod asks of its node: its containers together, or its largest init container if that is more."""
    spec = pod.get("spec", {})
    amounts = {}
    for name in RESOURCES:
        main = sum(_request(container, name) for container in spec.get("containers") or [])
        first = max((_request(container, name) for container in spec.get("initContainers") or []), default=0.0)
        amounts[name] = max(main, first)
    return amounts


def _request(container: Object, name: str) -> float:
    resources = container.get("resources") or {}
    amount = (resources.get("requests") or {}).get(name) or (resources.get("limits") or {}).get(name) or 0
    return parse_quantity(amount)


def fit(needs: dict[str, Needs], cluster: Cluster, nodes: Sequence[Node], *, pods_known: bool = True) -> list[StageFit]:
    """Each stage against the nodes, in the stages' order."""
    homes = [node.name for node in nodes if not why_not(node, COORDINATOR_NEEDS, cluster)]
    only = homes[0] if len(homes) == 1 else None
    return [
        _fit(stage, need, cluster, nodes, only, pods_known) for stage, need in needs.items() if stage != COORDINATOR
    ]


def _fit(
    stage: str, need: Needs, cluster: Cluster, nodes: Sequence[Node], only: str | None, pods_known: bool
) -> StageFit:
    """`only`: the node that the run's coordinator must be on, as long as the run; None if it has more to go to."""
    reasons = {node.name: why_not(node, need, cluster, beside=node.name == only) for node in nodes}
    holding = [node for node in nodes if not reasons[node.name]]
    return StageFit(
        stage=stage,
        cpu=need.cpu,
        memory_bytes=round(parse_quantity(need.memory)),
        disk_bytes=round(parse_quantity(need.ephemeral_storage)),
        gpus=need.gpus,
        holding=tuple(node.name for node in holding),
        free=tuple(node.name for node in holding if not lacking_now(node, need)) if pods_known else None,
        reason="" if holding else _nearest(nodes, reasons, need),
    )


def why_not(node: Node, need: Needs, cluster: Cluster, *, beside: bool = False) -> str:
    """Why a node could not hold a stage even if it were empty; empty if it could.

    Args:
        beside: the run's coordinator is on it all the while.
    """
    if not node.ready:
        return "isn't ready"
    if not node.open:
        return "is cordoned"
    if need.gpus and not node.has.get(GPU_RESOURCE):
        return "has no GPU"
    if foreign := [key for key, value in cluster.node_selector.items() if node.labels.get(key) != value]:
        return f"lacks the label {foreign[0]}={cluster.node_selector[foreign[0]]}"
    if need.gpus and (small := _small_gpu(node, cluster)):
        return small
    tolerations = (_GPU_TAINT, *cluster.tolerations) if need.gpus else cluster.tolerations
    if taint := next((item for item in node.taints if not any(tolerates(own, item) for own in tolerations)), None):
        return f"has the taint {taint_text(taint)}"
    taken = amounts_of(COORDINATOR_NEEDS) if beside else {}
    for name, amount in amounts_of(need).items():
        has, other = node.has.get(name, 0), taken.get(name, 0)
        if amount + other > has:
            more = f" beside the coordinator, which asks for {shown(name, other)}" if amount <= has else ""
            return f"has {shown(name, has)} in all, {shown(name, amount)} asked{more}"
    return ""


def _small_gpu(node: Node, cluster: Cluster) -> str:
    if not cluster.gpu.memory_gib:
        return ""
    if GPU_MEMORY_LABEL not in node.labels:
        return f"lacks the label {GPU_MEMORY_LABEL}, which GPU feature discovery sets"
    if node.gpu_mib <= int(cluster.gpu.memory_gib * 1024 * GPU_MEMORY_SHARE):
        return f"has a GPU of {human_gib(node.gpu_mib * MIB)}, {human_gib(cluster.gpu.memory_gib * GIB)} asked"
    return ""


def lacking_now(node: Node, need: Needs) -> str:
    """What a node that could hold a stage has too little of at the moment; empty if nothing."""
    for name, amount in amounts_of(need).items():
        if amount > node.free(name):
            return f"{shown(name, max(node.free(name), 0))} free, {shown(name, amount)} asked"
    return ""


def amounts_of(need: Needs) -> dict[str, float]:
    """A stage's needs as amounts by resource."""
    found = {
        "cpu": parse_quantity(need.cpu),
        "memory": parse_quantity(need.memory),
        "ephemeral-storage": parse_quantity(need.ephemeral_storage),
    }
    return found | ({GPU_RESOURCE: float(need.gpus)} if need.gpus else {})


def tolerates(toleration: Toleration, taint: Object) -> bool:
    """Whether a toleration puts up with a taint, as the scheduler judges it."""
    if toleration.effect and toleration.effect != taint.get("effect"):
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != taint.get("key"):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or "")


def taint_text(taint: Object) -> str:
    """`key=value:effect`, as kubectl has it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"


def shown(name: str, amount: float) -> str:
    """An amount with its resource's name."""
    if name == "cpu":
        return f"{amount:g} CPU cores"
    if name == GPU_RESOURCE:
        return f"{amount:.0f} GPU{'' if amount == 1 else 's'}"
    return f"{human_bytes(amount)} of {'scratch disk' if name == 'ephemeral-storage' else name}"


def _nearest(nodes: Sequence[Node], reasons: dict[str, str], need: Needs) -> str:
    """The most telling of the reasons: of a node that comes closest."""
    if not nodes:
        return "there are no nodes"
    suited = [node for node in nodes if node.has.get(GPU_RESOURCE)] if need.gpus else list(nodes)
    if not suited:
        return "no node has a GPU"
    best = max(
        suited, key=lambda node: (node.ready and node.open, node.gpu_mib if need.gpus else 0, node.has.get("memory", 0))
    )
    return f"{best.name} {reasons[best.name]}"

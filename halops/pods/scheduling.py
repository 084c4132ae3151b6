"""Why a pod has no node yet, from the scheduler's own words.

They are `0/N nodes are available: COUNT REASON, COUNT REASON. preemption: 0/N nodes are available: COUNT ANSWER, ...`.
Preemption "is not helpful" on a node that couldn't hold the pod even if it were empty: that tells "wait" from "never".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from halops.diagnosis import Category, Diagnosis, Level, Words
from halops.names import GPU_MEMORY_LABEL, GPU_RESOURCE
from halops.pods.fields import Object, event_text, newest, requests, say, stage_of
from halops.units import MIB, human_gib

_E, _W = Level.ERROR, Level.WARNING
_WHOLE = re.compile(r"0/(\d+) nodes are available: ?(.*?)(?:\.? preemption: (.*))?$", re.DOTALL)
_HOPELESS = re.compile(r"(\d+) Preemption is not helpful")
_TAINT = re.compile(r"untolerated taint(?:\(s\)| \{([^:}]*))")
_NODE_TAINT = "node.kubernetes.io/"
_ORDINARY_TAINTS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
ADDING = ("TriggeredScaleUp", "Nominated")  # said by the cluster autoscaler, and by Karpenter

# resource -> what a person calls it, and the profile's key
_RESOURCES = {
    "cpu": ("CPU cores", "cpu"),
    "memory": ("memory", "memory"),
    "ephemeral-storage": ("scratch disk", "ephemeral_storage"),
}
_BUSY = Words(
    _W, Category.UNSCHEDULABLE, "waits for a node with {what} free",
    "it starts by itself as soon as other pods end; `halops doctor` names who holds what",
)  # fmt: skip
_NEVER = Words(_E, Category.UNSCHEDULABLE, "no node is large enough: {what}", "{lower}add a larger node")
_NO_GPU = Words(
    _E, Category.UNSCHEDULABLE, "no node has {what}",
    "add a GPU node, or look whether the GPU's device plugin runs: `kubectl get nodes -o yaml` must list {resource}",
)  # fmt: skip
_SMALL_GPU = Words(
    _E, Category.UNSCHEDULABLE, "no node has a GPU with more than {memory} of memory that may be used here",
    "{taints}choose a profile that fits the cards (`halops plan` shows what it needs), lower cluster.gpu.memory_gib, "
    "or add a larger node; the label {label} on nodes says how large a card is",
)  # fmt: skip
_SELECTOR = Words(
    _E, Category.UNSCHEDULABLE, "no node has the labels that it asks for",
    "correct cluster.node_selector in the profile, or label a node",
)  # fmt: skip
_TAINTED = Words(
    _E, Category.UNSCHEDULABLE, "nodes are closed to it by taints: kept for other work, or not ready",
    "`kubectl describe nodes` shows each node's taints; cluster.tolerations in the profile puts up with one",
)  # fmt: skip
_NODES_ILL = Words(
    _W, Category.UNSCHEDULABLE, "the nodes aren't ready", "`kubectl get nodes` and `kubectl describe node` tell why"
)
_CORDONED = Words(
    _W, Category.UNSCHEDULABLE, "nodes are closed for new pods (cordoned, or being drained)",
    "it starts by itself once a node is open again: `kubectl uncordon NODE`",
)  # fmt: skip
_VOLUME = Words(
    _E, Category.UNSCHEDULABLE, "a volume that it mounts isn't bound",
    "`kubectl get pvc` shows it; check its StorageClass and its zone",
)  # fmt: skip
_NO_NODES = Words(_W, Category.UNSCHEDULABLE, "the cluster has no nodes", "add nodes, or wait for the autoscaler")
_ADDED = Words(_W, Category.UNSCHEDULABLE, "waits for a node that is being added", "it starts as soon as it is there")
_OTHER = Words(_W, Category.UNSCHEDULABLE, "no node takes it", "the detail has the scheduler's reasons")
_GATED = Words(
    _W, Category.QUEUED, "held back by a scheduling gate", "whoever set it must release it: `kubectl describe pod`"
)
_BROKEN = Words(
    _W, Category.UNSCHEDULABLE, "the scheduler itself met an error", "it tries again; its log has the reason"
)


class Said(NamedTuple):
    """The scheduler's message taken apart: reasons with their counts of nodes, and whether waiting is hopeless."""

    nodes: int
    reasons: dict[str, int]
    hopeless: bool

    def starting(self, beginning: str) -> list[str]:
        """Reasons that begin so."""
        return [reason for reason in self.reasons if reason.startswith(beginning)]

    def naming(self, part: str) -> list[str]:
        """Reasons with that in them."""
        return [reason for reason in self.reasons if part in reason]


def read(message: str) -> Said:
    """Take the scheduler's message apart; one in another form becomes a single reason."""
    found = _WHOLE.search(message.strip())
    if not found:
        return Said(0, {message.strip(): 0}, False)
    reasons = {}
    for part in found[2].strip().rstrip(".").split(", "):
        count, _, reason = part.partition(" ")
        reasons[reason if count.isdigit() else part] = int(count) if count.isdigit() else 0
    total = int(found[1])
    hopeless = sum(int(count) for count in _HOPELESS.findall(found[3] or ""))
    return Said(total, reasons, hopeless=total > 0 and hopeless == total)


def explain_unscheduled(pod: Object, condition: Object, events: Sequence[Object]) -> Diagnosis:
    """Why there is no node for a pod.

    Args:
        condition: its PodScheduled condition, which is false.
        events: the pod's, sorted.
    """
    message, reason, stage = str(condition.get("message", "")), condition.get("reason"), stage_of(pod)
    if reason == "SchedulingGated":
        return say(_GATED, message, stage)
    if reason == "SchedulerError":
        return say(_BROKEN, message, stage)
    if added := newest(events, *ADDING):
        return say(_ADDED, event_text(added), stage)
    said = read(message)
    words, values = _choose(pod, said)
    return say(words, _without_preemption(message), stage, **values)


def _without_preemption(message: str) -> str:
    return message.partition(" preemption: ")[0]


def _choose(pod: Object, said: Said) -> tuple[Words, dict[str, object]]:
    """The most telling reason: what would be mended first."""
    lacking = [reason.removeprefix("Insufficient ") for reason in said.starting("Insufficient ")]
    if lacking or said.starting("Too many pods"):
        return _lacking(pod, lacking, said)
    volumes = ("PersistentVolumeClaim", "persistentvolumeclaim", "volume zone", "persistent volumes", "pvc(s)")
    if any(said.naming(part) for part in volumes):
        return _VOLUME, {}
    affinity = said.naming("node affinity/selector")
    blocking = [taint for reason in said.reasons for taint in _taints(reason) if taint not in _ORDINARY_TAINTS]
    strange = [taint for taint in blocking if not taint.startswith(_NODE_TAINT)]
    if affinity and (least := _least_gpu_mib(pod)) is not None:
        hint = "allow the nodes' taint in cluster.tolerations if that card is meant, or " if strange else ""
        values: dict[str, object] = {"memory": human_gib(least * MIB), "taints": hint, "label": GPU_MEMORY_LABEL}
        return _SMALL_GPU, values
    if strange:
        return _TAINTED, {}
    if blocking:
        return _NODES_ILL, {}
    if said.naming("were unschedulable"):
        return _CORDONED, {}
    if affinity:
        return _SELECTOR, {}
    if said.naming("untolerated taint") or said.naming("taints that the pod didn't tolerate"):
        return _TAINTED, {}
    return (_NO_NODES if said.naming("no nodes available") else _OTHER), {}


def _taints(reason: str) -> list[str]:
    """The key of the taint in a reason; `?` where the scheduler doesn't name it (1.34 and later)."""
    found = _TAINT.search(reason)
    return [(found[1] or "?").strip()] if found else []


def _lacking(pod: Object, resources: list[str], said: Said) -> tuple[Words, dict[str, object]]:
    asked = requests(pod)
    gpus = [resource for resource in resources if resource not in _RESOURCES]
    if said.hopeless and gpus and len(gpus) == len(resources):
        return _NO_GPU, {"what": f"{asked.get(gpus[0], '1')} of {gpus[0]}", "resource": gpus[0]}
    what = " and ".join(_named(resource, asked.get(resource)) for resource in resources) or "room for another pod"
    if not said.hopeless:
        return _BUSY, {"what": what}
    keys = [_RESOURCES[resource][1] for resource in resources if resource in _RESOURCES]
    where = f"cluster.resources.{stage_of(pod) or 'STAGE'}"
    lower = f"lower {' and '.join(f'{where}.{key}' for key in keys)} in the profile, or " if keys else ""
    return _NEVER, {"what": what, "lower": lower}


def _named(resource: str, amount: str | None) -> str:
    if resource == GPU_RESOURCE:
        return "a GPU" if amount in (None, "1") else f"{amount} GPUs"
    name = _RESOURCES.get(resource, (resource, ""))[0]
    return f"{amount} {name}" if amount and resource == "cpu" else f"{amount} of {name}" if amount else name


def _least_gpu_mib(pod: Object) -> int | None:
    """The GPU memory that the pod's node affinity asks for, MiB."""
    affinity = (pod.get("spec", {}).get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or []
    asked = [item for term in terms for item in term.get("matchExpressions") or [] if item["key"] == GPU_MEMORY_LABEL]
    values = [value for item in asked if item.get("operator") == "Gt" for value in item.get("values") or []]
    return int(values[0]) if values and values[0].isdigit() else None

"""Why Kueue holds a Job back, from its Workload's conditions; without one, from the Job alone."""

from __future__ import annotations

import re
from collections.abc import Callable

from halops.diagnosis import Category, Diagnosis, Level, Words
from halops.names import LABEL_QUEUE
from halops.pods.fields import Object, false_condition, say, stage_of, true_condition

_E, _W = Level.ERROR, Level.WARNING
_SELF = "it starts by itself when its turn comes; `kubectl get workloads` shows who is before it"

_WAITING = Words(_W, Category.QUEUED, "waits in queue {queue} for quota: {what}", _SELF)
_TOO_MUCH = Words(
    _E, Category.QUOTA, "asks for more than queue {queue} may ever give: {what}",
    "raise the ClusterQueue's quota, or ask for less in cluster.resources and cluster.gpu",
)  # fmt: skip
_NO_FLAVOR = Words(
    _E, Category.UNSCHEDULABLE, "no ResourceFlavor of queue {queue} has the nodes that it asks for",
    "compare the flavors' nodeLabels and taints with cluster.gpu.memory_gib, node_selector and tolerations",
)  # fmt: skip
_NO_QUEUE = Words(
    _E, Category.SETUP, "queue {queue} can't be used: {what}",
    "`kubectl get localqueues` lists the namespace's; correct `queue` in halops.yaml, or make it: k8s/components/kueue",
)  # fmt: skip
_STOPPED = Words(
    _W, Category.QUEUED, "queue {queue} takes nothing at the moment: {what}",
    "whoever runs the queue stopped it, or one of its flavors is missing: `kubectl describe clusterqueue`",
)  # fmt: skip
_MAKING_ROOM = Words(_W, Category.QUEUED, "others are being ended to make room for it", "it starts when they are gone")
_FIRST = Words(_W, Category.QUEUED, "queue {queue} starts one after the other, and one before it isn't ready", _SELF)
_CHECKS = Words(
    _W, Category.QUEUED, "has its quota, and waits for an admission check",
    "`kubectl describe workload` names the check",
)  # fmt: skip
_SOON = Words(_W, Category.QUEUED, "waits in queue {queue}", _SELF)
_PREEMPTED = Words(
    _W, Category.PREEMPTED, "made way for work of higher priority in queue {queue}",
    "it goes on by itself from the last checkpoint, once there is room",
)  # fmt: skip
_EVICTED = Words(_W, Category.EVICTED, "queue {queue} took its place back", "it goes on by itself, once there is room")
_DEACTIVATED = Words(
    _E, Category.SUSPENDED, "its Workload was switched off", "`kubectl edit workload`: spec.active: true lets it go on"
)
_BY_HAND = Words(
    _E, Category.SUSPENDED, "the Job is suspended, and no queue will start it",
    "kubectl patch job {job} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'",
)  # fmt: skip
_UNSEEN = Words(
    _W, Category.QUEUED, "waits in queue {queue}",
    "it starts when its turn comes, if Kueue runs: `kubectl describe workloads` says what it waits for",
)  # fmt: skip

# Kueue's reasons of QuotaReserved=False (0.19 on) -> words.
_BY_REASON: dict[str, Words] = {
    "NoMatchingFlavor": _NO_FLAVOR,
    "WaitingForQuota": _WAITING,
    "ExceedsMaxQuota": _TOO_MUCH,
    "WaitingForPreemptedWorkloads": _MAKING_ROOM,
    "Misconfigured": _NO_QUEUE,
    "Inadmissible": _NO_QUEUE,
    "Suspended": _STOPPED,
    "WaitingForPodsReady": _FIRST,
    "PendingEvaluation": _SOON,
}
# Before that every reason is `Pending`, and the message alone tells. The first row that fits counts.
_BY_MESSAGE: tuple[tuple[Callable[[str], bool], Words], ...] = (
    (lambda text: "> maximum capacity" in text or "exceeds maximum" in text, _TOO_MUCH),
    (lambda text: "insufficient unused quota" in text or "insufficient quota" in text, _WAITING),
    (lambda text: "doesn't match node affinity" in text or "untolerated taint" in text, _NO_FLAVOR),
    (lambda text: "doesn't exist" in text or "not found" in text or "missing" in text, _NO_QUEUE),
    (lambda text: "inactive" in text or "is stopped" in text, _STOPPED),
    (lambda text: "preempt" in text.lower(), _MAKING_ROOM),
)
_UNUSED = re.compile(r"insufficient unused quota for (\S+) in flavor (\S+), (\S+) more needed")
_CAPACITY = re.compile(
    r"insufficient quota for (\S+) in flavor (\S+),.*?request \((\S+)\) > maximum capacity \((\S+)\)"
)


def explain_workload(workload: Object) -> Diagnosis | None:
    """Why Kueue holds a Workload back; None once it is admitted or done."""
    if true_condition(workload, "Finished"):
        return None
    spec = workload.get("spec", {})
    queue, stage = str(spec.get("queueName", "")), stage_of(workload)
    if spec.get("active") is False:
        return say(_DEACTIVATED, _message(true_condition(workload, "Evicted")), stage)
    if true_condition(workload, "Admitted"):
        return None
    if true_condition(workload, "QuotaReserved"):
        return say(_CHECKS, _message(false_condition(workload, "Admitted")), stage)
    waiting = false_condition(workload, "QuotaReserved")
    evicted = true_condition(workload, "Evicted")
    if evicted and not _tells(waiting):
        words = _PREEMPTED if evicted.get("reason") == "Preempted" else _EVICTED
        return say(words, _message(evicted), stage, queue=queue)
    text = _message(waiting)
    return say(_words(waiting or {}), text, stage, queue=queue, what=_short(text))


def explain_suspended(job: Object, workload: Object | None) -> Diagnosis | None:
    """Why a suspended Job waits."""
    stage = stage_of(job)
    if workload is not None:
        found = explain_workload(workload)
        return found.model_copy(update={"summary": _named(found.summary, stage)}) if found else None
    labels = job.get("metadata", {}).get("labels") or {}
    if queue := labels.get(LABEL_QUEUE):
        return say(_UNSEEN, "suspended by Kueue", stage, queue=queue)
    return say(_BY_HAND, "spec.suspend is true", stage, job=job.get("metadata", {}).get("name", ""))


def _named(summary: str, stage: str) -> str:
    return summary if not stage or summary.startswith(f"{stage}: ") else f"{stage}: {summary}"


def _tells(waiting: Object | None) -> bool:
    """Whether the scheduler has looked at it since it was evicted."""
    return bool(waiting) and _words(waiting or {}) is not _SOON and waiting.get("reason") != "Evicted"  # type: ignore[union-attr]


def _words(condition: Object) -> Words:
    if words := _BY_REASON.get(str(condition.get("reason", ""))):
        return words
    text = str(condition.get("message", ""))
    return next((words for matches, words in _BY_MESSAGE if matches(text)), _SOON)


def _message(condition: Object | None) -> str:
    return str((condition or {}).get("message", ""))


def _short(text: str) -> str:
    """The part of a message that a person wants."""
    if found := _UNUSED.search(text):
        return f"{found[3]} more {found[1]} needed in flavor {found[2]}"
    if found := _CAPACITY.search(text):
        return f"{found[3]} {found[1]} asked, {found[4]} at most in flavor {found[2]}"
    return text

"""Pure: pods, Jobs and Workloads as the Kubernetes API gives them -> what holds a stage up, and what to do.

None means that all is well. Level `warning` mends itself if one waits; `error` needs the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from halops.artifact import parse_time
from halops.diagnosis import Category, Diagnosis, Level, Words
from halops.pods.creation import explain_refusal
from halops.pods.ended import Termination, explain_exit, explain_termination, job_exit_code, termination
from halops.pods.fields import (
    Object,
    created,
    event_text,
    events_of,
    false_condition,
    main_status,
    newest,
    say,
    stage_of,
    true_condition,
)
from halops.pods.queueing import explain_suspended, explain_workload
from halops.pods.scheduling import explain_unscheduled
from halops.pods.starting import explain_reason, explain_waiting

__all__ = [
    "Termination",
    "explain_job",
    "explain_pod",
    "explain_refusal",
    "explain_termination",
    "explain_workload",
    "job_exit_code",
    "termination",
]

STUCK_AFTER = timedelta(seconds=60)  # past the end of a pod's grace
_STARTS = ("StartError", "ContainerCannotRun")
_STUCK = Words(
    Level.ERROR, Category.NODE_LOST, "can't be ended, since its node {node} doesn't answer",
    "bring the node back; if it is gone for good: kubectl taint nodes {node} "
    "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
)  # fmt: skip
_SILENT = Words(
    Level.WARNING, Category.NODE_LOST, "its node {node} doesn't answer",
    "it goes on if the node comes back, and elsewhere after some minutes: `kubectl describe node {node}`",
)  # fmt: skip
_DEADLINE = Words(
    Level.ERROR, Category.DEADLINE, "ran longer than it may ({seconds} s)",
    "see its log: did it hang? `halops resume` gives it a new deadline",
)  # fmt: skip
_BACKOFF = Words(
    Level.ERROR, Category.UNKNOWN, "failed too often", "its log has the reason; `halops resume` tries again"
)
_FAILED = Words(Level.ERROR, Category.UNKNOWN, "failed", "its log has the reason; `halops resume` tries again")


def explain_pod(pod: Object, events: Sequence[Object] = (), *, now: datetime | None = None) -> Diagnosis | None:
    """What holds a pod up, or ended it.

    Args:
        events: of the namespace or of the pod; those of other objects are left out.
        now: the time, for a pod that should have been gone long ago.
    """
    own, stage = events_of({**pod, "kind": "Pod"}, events), stage_of(pod)
    if end := termination(pod):
        if end.reason in _STARTS:
            return explain_reason(pod, end.reason, end.message)
        return explain_termination(end, stage)
    if leaving := _leaving(pod, now or datetime.now(UTC)):
        return leaving
    unscheduled = false_condition(pod, "PodScheduled")
    if unscheduled and pod.get("status", {}).get("phase", "Pending") == "Pending":
        return explain_unscheduled(pod, unscheduled, own)
    return _crashing(pod) or explain_waiting(pod, own) or _silent(pod, own)


def explain_job(
    job: Object,
    pods: Sequence[Object],
    events: Sequence[Object] = (),
    *,
    workload: Object | None = None,
    now: datetime | None = None,
) -> Diagnosis | None:
    """What holds a Job up, or made it fail.

    Args:
        pods: the Job's own.
        events: of the namespace, or of the Job and its pods.
        workload: Kueue's Workload of this Job, where it can be read.
    """
    if true_condition(job, "Complete", "SuccessCriteriaMet"):
        return None
    ordered = sorted(pods, key=created)
    if failed := true_condition(job, "Failed", "FailureTarget"):
        return _failed(job, failed, ordered)
    if job.get("spec", {}).get("suspend"):
        return explain_suspended(job, workload)
    found = [item for pod in ordered if (item := explain_pod(pod, events, now=now)) and not termination(pod)]
    if found:
        return next((item for item in found if item.level is Level.ERROR), found[-1])
    if any(not termination(pod) for pod in ordered):
        return None  # a pod is at work
    return _refused(job, events) or _between(ordered)


def _leaving(pod: Object, now: datetime) -> Diagnosis | None:
    """A pod that is to be deleted: why, or that it can't be."""
    metadata, status = pod.get("metadata", {}), pod.get("status", {})
    node = pod.get("spec", {}).get("nodeName", "")
    due = metadata.get("deletionTimestamp")
    if due and node and now > parse_time(due) + STUCK_AFTER:
        return say(_STUCK, f"to be gone by {due}", stage_of(pod), node=node)
    disruption = true_condition(pod, "DisruptionTarget")
    reason = status.get("reason") or (disruption or {}).get("reason", "")
    if not disruption and reason != "NodeLost":
        return None
    message = status.get("message") or (disruption or {}).get("message", "")
    end = Termination(exit_code=None, reason=reason, disrupted=bool(disruption), message=message)
    return explain_termination(end, stage_of(pod))


def _crashing(pod: Object) -> Diagnosis | None:
    """A container that is restarted again and again (the coordinator's): why it ended last time."""
    status = main_status(pod)
    waiting = (status.get("state") or {}).get("waiting") or {}
    last = (status.get("lastState") or {}).get("terminated")
    if waiting.get("reason") != "CrashLoopBackOff" or not last:
        return None
    code, oom = last.get("exitCode", 1), last.get("reason") == "OOMKilled"
    found = explain_exit(code, last.get("message", ""), stage_of(pod), oom_killed=oom)
    times = f"{status.get('restartCount', 0)} restarts"
    return found.model_copy(update={"detail": f"{found.detail}; {times}" if found.detail else times})


def _silent(pod: Object, events: Sequence[Object]) -> Diagnosis | None:
    """A running pod whose node is no longer heard of."""
    last = newest(events, "NodeNotReady")
    if last is None or not false_condition(pod, "Ready"):
        return None
    return say(_SILENT, event_text(last), stage_of(pod), node=pod.get("spec", {}).get("nodeName", "NODE"))


def _failed(job: Object, condition: Object, pods: Sequence[Object]) -> Diagnosis:
    reason, message, stage = condition.get("reason"), str(condition.get("message", "")), stage_of(job)
    if reason == "DeadlineExceeded":
        return say(_DEADLINE, message, stage, seconds=job.get("spec", {}).get("activeDeadlineSeconds", "?"))
    last = _last_failure(pods)
    if reason == "PodFailurePolicy" and (last is None or _code(pods) != job_exit_code(job)):
        code = job_exit_code(job)
        return say(_FAILED, message, stage) if code is None else explain_exit(code, "", stage)
    if reason == "BackoffLimitExceeded":
        limit = job.get("spec", {}).get("backoffLimit", 6) + 1
        if last is None:
            return say(_BACKOFF, message, stage)
        said = f"{last.summary}, {limit} times" if limit > 1 else last.summary
        return last.model_copy(update={"level": Level.ERROR, "summary": said, "resolution": _final(last)})
    return last or say(_FAILED, message, stage)


def _final(last: Diagnosis) -> str:
    """What to do when the cluster won't try again by itself."""
    return "mend that, then `halops resume`" if last.level is Level.WARNING else last.resolution


def _code(pods: Sequence[Object]) -> int | None:
    ends = [end for pod in pods if (end := termination(pod))]
    return ends[-1].exit_code if ends else None


def _last_failure(pods: Sequence[Object]) -> Diagnosis | None:
    """Why the newest of the ended pods ended."""
    found = [item for pod in pods if termination(pod) and (item := explain_pod(pod))]
    return found[-1] if found else None


def _refused(job: Object, events: Sequence[Object]) -> Diagnosis | None:
    """Why the Job controller can't make a pod, if that is what it said last."""
    own = events_of({**job, "kind": "Job"}, events)
    last = newest(own, "FailedCreate", "SuccessfulCreate")
    if last is None or last.get("reason") != "FailedCreate":
        return None
    return explain_refusal(event_text(last).removeprefix("Error creating: "), stage_of(job))


def _between(pods: Sequence[Object]) -> Diagnosis | None:
    """The last attempt failed, and the Job makes another."""
    last = _last_failure(pods)
    if last is None:
        return None
    said = last.summary if last.level is Level.WARNING else f"{last.summary}; another attempt follows"
    return last.model_copy(update={"level": Level.WARNING, "summary": said})

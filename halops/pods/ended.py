"""How a pod ended: by its stage's own exit code, by the kernel, by the cluster."""

from __future__ import annotations

import re

from halops.artifact import Frozen
from halops.diagnose import diagnose
from halops.diagnosis import Category, Diagnosis, Level, Words
from halops.pods.errors import read_error
from halops.pods.fields import Object, main_status, say, true_condition

_E, _W = Level.ERROR, Level.WARNING
_AGAIN = "another attempt follows by itself, from the last checkpoint if it trained"
OOM_KILLED = "OOMKilled"
KILLED, TERMINATED, TRANSIENT = 137, 143, 75


class Termination(Frozen):
    """How a pod ended.

    Args:
        exit_code: its container's; None if none of its containers came to an end, or the node no longer knows.
        reason: `OOMKilled`, `Evicted`, `PreemptionByScheduler`, `Error`, ..., the most telling there is.
        disrupted: the cluster ended it for reasons of its own (DisruptionTarget): it costs no attempt.
        message: the kubelet's words, else the last lines of the log.
    """

    exit_code: int | None
    reason: str = ""
    disrupted: bool = False
    message: str = ""


# The cluster's reasons, of the DisruptionTarget condition or of the pod's status.
_REASONS: dict[str, Words] = {
    "PreemptionByScheduler": Words(_W, Category.PREEMPTED, "made way for a pod of higher priority", _AGAIN),
    "Preempting": Words(_W, Category.PREEMPTED, "made way for one of the node's own pods", _AGAIN),
    "EvictionByEvictionAPI": Words(_W, Category.EVICTED, "its node is being drained", _AGAIN),
    "DeletionByTaintManager": Words(
        _W, Category.NODE_LOST, "its node got a taint: not ready, or kept for other work", _AGAIN
    ),
    "DeletionByPodGC": Words(_W, Category.NODE_LOST, "its node is gone", _AGAIN),
    "Terminated": Words(_W, Category.NODE_LOST, "its node was shut down", _AGAIN),
    "NodeShutdown": Words(_W, Category.NODE_LOST, "its node was about to shut down", _AGAIN),
    "NodeLost": Words(_W, Category.NODE_LOST, "its node doesn't answer", _AGAIN),
    "ContainerStatusUnknown": Words(_W, Category.NODE_LOST, "its node lost sight of it, as after a restart", _AGAIN),
    "TerminationByKubelet": Words(_W, Category.EVICTED, "its node was short of something, or shut down", _AGAIN),
    "UnexpectedAdmissionError": Words(
        _W, Category.NODE, "its node could not give what was promised, as after a restart", _AGAIN
    ),
    "NodeAffinity": Words(_W, Category.NODE, "its node's labels no longer fit", _AGAIN),
    "DeadlineExceeded": Words(
        _E, Category.DEADLINE, "ran longer than it may",
        "see its log: did it hang? `halops resume` gives it a new deadline",
    ),
}  # fmt: skip
_OUT_OF = Words(_W, Category.NODE, "its node had no {what} left when it came", _AGAIN)
_PRESSURE = Words(
    _W, Category.EVICTED, "its node was short of {what}", f"{_AGAIN}; a larger request keeps other pods off the node"
)
_SCRATCH = Words(
    _E, Category.DISK_FULL, "it wrote more to scratch disk than it asked for",
    "raise cluster.resources.{where}.ephemeral_storage in the profile",
)  # fmt: skip
_LOW = re.compile(r"low on resource: ([\w.-]+)|had condition: \[?(\w+)")
_OVERRUN = ("ephemeral storage limit", "ephemeral local storage usage exceeds", "EmptyDir volume")
# What a retry in a cluster does by itself; `halops.diagnose` speaks of one machine.
_BY_ITSELF: dict[int, Words] = {
    TRANSIENT: Words(_W, Category.INTERRUPTED, "interrupted; what was done is saved", _AGAIN),
    KILLED: Words(_W, Category.KILLED, "killed from outside, and not for its memory", _AGAIN),
    TERMINATED: Words(_W, Category.INTERRUPTED, "told to stop before it had anything to save", _AGAIN),
}
_CREDENTIALS = Words(
    _E,
    Category.CREDENTIALS,
    "{what}",
    "correct the Secret that `secrets.s3` in halops.yaml names, then `halops resume`",
)
_KEY_TROUBLE = ("access key", "secret key", "credentials", "session token", "store refuses access")
_FAILED_RULE = re.compile(r"failed with exit code (\d+) matching \w+ rule")


def termination(pod: Object) -> Termination | None:
    """How a pod ended; None while it has not."""
    status = pod.get("status", {})
    ended = (main_status(pod).get("state") or {}).get("terminated")
    if status.get("phase") not in ("Failed", "Succeeded") and not ended:
        return None
    ended = ended or {}
    disruption = true_condition(pod, "DisruptionTarget") or {}
    own = ended.get("reason", "")
    reason = own if own == OOM_KILLED else status.get("reason") or disruption.get("reason") or own
    message = status.get("message") or disruption.get("message") or ended.get("message") or ""
    known = own != "ContainerStatusUnknown"  # then the kubelet makes up a 137
    return Termination(
        exit_code=ended.get("exitCode") if known else None,
        reason=reason,
        disrupted=bool(disruption),
        message=message,
    )


def job_exit_code(job: Object) -> int | None:
    """The exit code that failed a Job by its podFailurePolicy, which outlives the pod; None if it failed otherwise."""
    failed = true_condition(job, "Failed", "FailureTarget") or {}
    found = _FAILED_RULE.search(str(failed.get("message", "")))
    return int(found[1]) if found else None


def explain_termination(end: Termination, stage: str = "") -> Diagnosis | None:
    """What a pod's end means; None after a success."""
    if end.exit_code == 0 and not end.disrupted and end.reason in ("", "Completed"):
        return None
    if end.reason == "Evicted":
        return _evicted(end, stage)
    if end.reason.startswith("OutOf"):
        return say(_OUT_OF, end.message, stage, what=end.reason.removeprefix("OutOf"))
    if words := _REASONS.get(end.reason):
        return say(words, end.message or f"exit code {end.exit_code}", stage)
    if end.exit_code is None:
        return diagnose(1, log_tail=end.message or end.reason, stage=stage)
    return explain_exit(end.exit_code, end.message, stage, oom_killed=end.reason == OOM_KILLED)


def _evicted(end: Termination, stage: str) -> Diagnosis:
    if any(part in end.message for part in _OVERRUN):
        return say(_SCRATCH, end.message, stage, where=stage or "STAGE")
    found = _LOW.search(end.message)
    return say(_PRESSURE, end.message, stage, what=(found[1] or found[2]) if found else "something")


def explain_exit(code: int, log_tail: str, stage: str, *, oom_killed: bool = False) -> Diagnosis:
    """What a container's exit code means: the stage's own words if the log has them, else those of the code."""
    general = diagnose(code, log_tail=log_tail, oom_killed=oom_killed, stage=stage)
    own = read_error(log_tail)
    if oom_killed or (own is None and code not in _BY_ITSELF):
        return general
    if own is None:
        return say(_BY_ITSELF[code], general.detail, stage)
    if code == TRANSIENT and any(part in own.what for part in _KEY_TROUBLE):
        return say(_CREDENTIALS, own.detail or f"exit code {code}", stage, what=own.what)
    return general.model_copy(
        update={
            "summary": f"{stage}: {own.what}" if stage else own.what,
            "detail": own.detail or f"exit code {code}",
            "resolution": _AGAIN if code == TRANSIENT else own.remedy or general.resolution,
        }
    )

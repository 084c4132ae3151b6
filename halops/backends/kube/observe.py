"""What the cluster says of a run's stage: Jobs and pods as the decision and the diagnosis need them."""

from __future__ import annotations

import json
from typing import Any, Literal

from halops import names
from halops.backends.kube.api import KubeApi, Object
from halops.backends.kube.decide import OOM_KILLED, AttemptRecord, JobView
from halops.podstatus import job_exit_code, termination

History = dict[str, tuple[AttemptRecord, ...]]


def stage_labels(run_id: str, stage: str) -> dict[str, str]:
    """What selects a stage's Jobs and pods."""
    return {names.LABEL_RUN: run_id, names.LABEL_STAGE: stage}


def stage_jobs(api: KubeApi, run_id: str, stage: str) -> list[Object]:
    """A stage's Jobs, the newest attempt last."""
    return sorted(api.list("jobs", stage_labels(run_id, stage)), key=attempt_of)


def stage_pods(api: KubeApi, run_id: str, stage: str) -> list[Object]:
    """A stage's pods, the newest last."""
    found = api.list("pods", stage_labels(run_id, stage))
    return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def attempt_of(item: Object) -> int:
    """The attempt's number of a Job or a pod."""
    return int(item["metadata"].get("labels", {}).get(names.LABEL_ATTEMPT, 1))


def view(job: Object, pods: list[Object]) -> JobView:
    """A Job and its own pods, judged."""
    state, condition = job_state(job)
    ends = [end for pod in pods if attempt_of(pod) == attempt_of(job) and (end := termination(pod))]
    # The last pod that ended by itself: a disruption is the node's doing, and the Job replaces its pod.
    own = next((end for end in reversed(ends) if not end.disrupted), None)
    code = own.exit_code if own else job_exit_code(job)
    return JobView(
        attempt=attempt_of(job),
        rung=int(job["metadata"]["labels"].get(names.LABEL_RUNG, 0)),
        state=state,
        finished=condition.get("lastTransitionTime"),
        exit_code=code if state == "failed" else None,
        oom_killed=state == "failed" and own is not None and own.reason == OOM_KILLED,
        reason=condition.get("reason", ""),
    )


def job_state(job: Object) -> tuple[Literal["active", "complete", "failed"], dict[str, Any]]:
    """Whether a Job is over, and the condition that says so.

    FailureTarget comes first, while pods still end; only Failed and Complete are final.
    """
    for condition in job.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            return ("complete" if condition["type"] == "Complete" else "failed"), condition
    return "active", {}


def read_history(root: Object) -> History:
    """The attempts that the root's annotation records."""
    text = annotations_of(root).get(names.ANNOTATION_ATTEMPTS) or "{}"
    return {
        stage: tuple(AttemptRecord.model_validate(item) for item in items) for stage, items in json.loads(text).items()
    }


def write_history(history: History) -> str:
    """The annotation's value."""
    rows = {stage: [record.model_dump() for record in records] for stage, records in history.items()}
    return json.dumps(rows, separators=(",", ":"))


def recorded(history: History, stage: str, *records: AttemptRecord) -> History:
    """The history with these records put in place of those with their numbers."""
    kept = {record.attempt: record for record in history.get(stage, ())} | {item.attempt: item for item in records}
    return history | {stage: tuple(kept[number] for number in sorted(kept))}


def at_work(root: Object | None, coordinator: Object | None) -> bool:
    """Whether a coordinator works on the run. One that has said how it ended may take a moment to be gone."""
    if coordinator is None or job_state(coordinator)[0] != "active":
        return False
    return root is None or annotations_of(root).get(names.ANNOTATION_STATE) not in names.OVER


def annotations_of(item: Object) -> dict[str, str]:
    """An object's annotations."""
    found: dict[str, str] = item["metadata"].get("annotations") or {}
    return found


def owned(item: Object, root: Object) -> Object:
    """The object as one that goes when the root goes."""
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": root["metadata"]["name"], "uid": root["metadata"]["uid"]}
    return item | {"metadata": item["metadata"] | {"ownerReferences": [owner]}}

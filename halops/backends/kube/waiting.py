"""Why a stage waits: explained on the root while it lasts, and told to the site's webhook when it lasts long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from halops import names
from halops.backends.kube.api import KubeApi, Object
from halops.backends.kube.observe import annotations_of, attempt_of
from halops.diagnosis import Diagnosis
from halops.errors import HalopsError
from halops.names import State, root_name
from halops.podstatus import explain_job
from halops.webhook import document, post

STUCK_SECONDS = 600.0


class Watcher:
    """Keeps the root's diagnosis up to date, and reports to a webhook.

    Args:
        webhook: where a JSON document goes when the run is done, failed or stuck; None for nowhere.
    """

    def __init__(self, api: KubeApi, run_id: str, store: str, webhook: str | None, say: Callable[[str], None]) -> None:
        self._api, self._run_id, self._store, self._webhook, self._say = api, run_id, store, webhook, say
        self._since: tuple[str, float] = ("", 0.0)
        self._told = False

    def look(self, root: Object, stage: str, job: Object | None, pods: list[Object]) -> None:
        """Explain a stage that is at work or waits; write it down if it changed."""
        found = explain(self._api, job, pods) if job else None
        text = json.dumps({"stage": stage, "message": words(found)}) if found else None
        if text != annotations_of(root).get(names.ANNOTATION_DIAGNOSIS):
            self._api.annotate("configmaps", root_name(self._run_id), {names.ANNOTATION_DIAGNOSIS: text})
            if found:
                self._say(f"{stage}: {words(found)}")
        self._stuck(stage, found)

    def ended(self, state: State, diagnosis: Object) -> None:
        """Tell the webhook how the run ended."""
        self._tell(state, diagnosis.get("stage", ""), diagnosis.get("message", ""))

    def _stuck(self, stage: str, found: Diagnosis | None) -> None:
        key = f"{stage} {found.category}" if found else ""
        if key != self._since[0]:
            self._since, self._told = (key, time.monotonic()), False
        if found and not self._told and time.monotonic() - self._since[1] > STUCK_SECONDS:
            self._told = True
            self._tell("stuck", stage, words(found))

    def _tell(self, state: str, stage: str, message: str) -> None:
        if self._webhook:
            post(self._webhook, document(self._run_id, state, stage, message, self._store), self._say)


def explain(api: KubeApi, job: Object, pods: list[Object]) -> Diagnosis | None:
    """What holds a Job up, or how it ended.

    Args:
        pods: of the stage; those of other attempts don't count.
    """
    own = [pod for pod in pods if attempt_of(pod) == attempt_of(job)]
    return explain_job(job, own, events_of(api, [job, *own]), workload=workload_of(api, job))


def words(found: Diagnosis) -> str:
    """A diagnosis as a few lines: what, the evidence, what to do."""
    return "\n".join(line for line in (found.summary, found.detail, found.resolution) if line)


def events_of(api: KubeApi, items: list[Object]) -> list[Object]:
    """Events about these objects; none where we may not read them."""
    uids = {item["metadata"]["uid"] for item in items}
    try:
        return [event for event in api.list("events") if event.get("involvedObject", {}).get("uid") in uids]
    except HalopsError:
        return []


def workload_of(api: KubeApi, job: Object) -> Object | None:
    """Kueue's object for a queued Job, which says what it waits for; None where there is none, or we may not look."""
    if names.LABEL_QUEUE not in job["metadata"].get("labels", {}):
        return None
    try:
        found = api.list("workloads", {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]})
    except HalopsError:
        return None
    return found[0] if found else None

"""The cluster backend: puts a run there, watches it, stops it, removes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from halops import names
from halops.artifact import Frozen
from halops.backends.base import Listener, stage_error
from halops.backends.follow import follow_run
from halops.backends.kube.api import KubeApi, Object
from halops.backends.kube.beside import BesideJob
from halops.backends.kube.observe import annotations_of, at_work, job_state, stage_labels, stage_pods
from halops.backends.kube.podlogs import pod_lines
from halops.backends.kube.submission import Submission, rehearse
from halops.backends.kube.waiting import explain, words
from halops.backends.kube.yielding import freed_of, give_back
from halops.errors import BusyError, ConfigError, HalopsError, Interrupted
from halops.manifests.jobs import job_name
from halops.manifests.pods import GRACE_SECONDS
from halops.manifests.run import Rendered
from halops.names import COORDINATOR, LOGGED, State, root_name
from halops.plan import Step
from halops.runspec import RunSpec
from halops.runstate import RunStatus, overall, run_status
from halops.store.base import Store

GONE_SECONDS = GRACE_SECONDS + 60.0  # a pod's grace, and what a node takes to say that it is over
POLL_SECONDS = 0.5


class Reason(Frozen):
    """What the coordinator left on the root: the stage it is about, words, and an exit code if the run failed."""

    stage: str
    message: str
    exit_code: int | None = None


class KubeBackend:
    """Runs of one namespace.

    Args:
        render: makes a spec's objects; needed by `submit` and `run` alone.
        note: tells a person what happens.
    """

    def __init__(
        self, api: KubeApi, store: Store, render: Callable[[RunSpec], Rendered] | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.api, self.store, self._render, self._note = api, store, render, note

    def run(self, spec: RunSpec, listener: Listener) -> None:
        """Submit, and follow to the end. Raises the failed stage's error; a follower that stops, stops nothing."""
        self.submit(spec)
        try:
            status = follow_run(lambda: self.status(spec), listener)
        except KeyboardInterrupt:
            raise Interrupted(
                "no longer watching; the run goes on in the cluster", remedy=f"halops status {spec.run_id} -w"
            ) from None
        if status.state != "succeeded":
            raise self._error(status)

    def run_beside(self, spec: RunSpec, step: Step, listener: Listener) -> None:
        """A Job of its own, owned by the run's root; followed to its end. One that stops watching stops nothing."""
        BesideJob(self.api, self.store, spec, step).run(self._rendered(spec).fast[step.stage], listener)

    def submit(self, spec: RunSpec) -> None:
        """Let the server judge everything, then make root, rights and coordinator."""
        rendered = self._rendered(spec)
        rehearse(self.api, rendered)
        Submission(self.api, rendered, lambda: self.alive(spec.run_id), self._note).make()

    def alive(self, run_id: str) -> bool:
        """Whether a coordinator is there and hasn't ended."""
        return at_work(self._root(run_id), self._coordinator(run_id))

    def status(self, spec: RunSpec) -> RunStatus:
        """The store's view, with the cluster's reasons."""
        job, root = self._coordinator(spec.run_id), self._root(spec.run_id)
        alive = at_work(root, job)
        failed = root is not None and annotations_of(root).get(names.ANNOTATION_STATE) == "failed"
        status = run_status(self.store, spec, alive=alive)
        reason = reason_of(root)
        if job and alive and not (reason and reason.stage != COORDINATOR):
            reason = reason or self._coordinator_waits(spec.run_id, job)
        return explained(status, reason, failed=failed) if reason and status.state != "succeeded" else status

    def cancel(self, run_id: str) -> bool:
        """Tell the coordinator, then delete its Job and the stages'; their pods get SIGTERM and save what they can."""
        if self._root(run_id) is None:
            return False
        self.api.annotate("configmaps", root_name(run_id), {names.ANNOTATION_STATE: "cancelled"})
        # The coordinator first: it would make the others again.
        stopped = [self._stop(stage_labels(run_id, COORDINATOR)), self._stop({names.LABEL_RUN: run_id})]
        self._give_back(run_id)
        return any(stopped)

    def forget(self, run_id: str) -> None:
        """Delete the root; everything else in the cluster goes with it."""
        self._give_back(run_id)
        self.api.delete("configmaps", root_name(run_id))
        self._ended({names.LABEL_RUN: run_id})

    def logged(self, run_id: str) -> list[str]:
        """Stages that have pods."""
        pods = self.api.list("pods", {names.LABEL_RUN: run_id})
        seen = {pod["metadata"]["labels"].get(names.LABEL_STAGE) for pod in pods}
        return [stage for stage in LOGGED if stage in seen]

    def logs(self, run_id: str, stage: str, *, follow: bool = False) -> Iterator[str]:
        """The newest pod's log; with `follow`, those of its successors too."""
        return pod_lines(
            self.api, lambda: stage_pods(self.api, run_id, stage), follow=follow, alive=lambda: self.alive(run_id)
        )

    def _rendered(self, spec: RunSpec) -> Rendered:
        if self._render is None:
            raise ConfigError("nothing says how this run's objects are made")
        return self._render(spec)

    def _give_back(self, run_id: str) -> None:
        """The server's replicas, if the coordinator died before it could."""
        root = self._root(run_id)
        if root is None or not (freed := freed_of(root)):
            return
        try:
            give_back(self.api, freed, root, self._note)
        except ConfigError as error:
            self._note(f"{error.what}; kubectl -n {freed.namespace} scale deployment/{freed.deployment} "
                       f"--replicas={freed.replicas}")  # fmt: skip

    def _coordinator(self, run_id: str) -> Object | None:
        return self.api.get("jobs", job_name(run_id, COORDINATOR))

    def _root(self, run_id: str) -> Object | None:
        return self.api.get("configmaps", root_name(run_id))

    def _coordinator_waits(self, run_id: str, job: Object) -> Reason | None:
        pods = stage_pods(self.api, run_id, COORDINATOR)
        found = explain(self.api, job, pods)
        return Reason(stage=COORDINATOR, message=words(found)) if found else None

    def _stop(self, labels: dict[str, str]) -> bool:
        stopped = False
        for job in self.api.list("jobs", labels):
            if job_state(job)[0] == "active":
                stopped |= self.api.delete("jobs", job["metadata"]["name"], job["metadata"]["uid"])
        self._ended(labels)
        return stopped

    def _ended(self, labels: dict[str, str]) -> None:
        """Wait until these pods have ended: one that goes on writing would outlive what follows."""
        deadline = time.monotonic() + GONE_SECONDS
        while running := [item for item in self.api.list("pods", labels) if _runs(item)]:
            if time.monotonic() > deadline:
                pod = running[0]["metadata"]["name"]
                raise BusyError(f"pod {pod} doesn't end", remedy=f"kubectl describe pod {pod}: is its node there?")
            time.sleep(POLL_SECONDS)

    def _error(self, status: RunStatus) -> HalopsError:
        reason = reason_of(self._root(status.run_id))
        if status.state == "cancelled" or reason is None or reason.exit_code is None:
            return Interrupted(f"the run is {status.state}", remedy=f"halops resume {status.run_id}")
        return stage_error(status.run_id, reason.stage, reason.exit_code, reason.message)


def reason_of(root: Object | None) -> Reason | None:
    """What the root's annotation says of the run's standstill or end."""
    text = annotations_of(root).get(names.ANNOTATION_DIAGNOSIS) if root else None
    return Reason.model_validate(json.loads(text)) if text else None


def explained(status: RunStatus, reason: Reason, *, failed: bool) -> RunStatus:
    """The status with the cluster's reason at its stage; one about none of them at the first that isn't done."""
    names_of = [item.name for item in status.stages]
    undone = next(item.name for item in status.stages if item.state != "succeeded")
    where = reason.stage if reason.stage in names_of else undone
    text = reason.message if where == reason.stage else f"{reason.stage}: {reason.message}"
    stages = []
    for item in status.stages:
        if item.name == where and item.state != "succeeded":
            state: State = "failed" if failed and item.state != "cancelled" else item.state
            item = item.model_copy(update={"diagnosis": text if failed else item.diagnosis or text, "state": state})
        stages.append(item)
    state = overall([item.state for item in stages], alive=status.state == "running")
    return status.model_copy(update={"stages": tuple(stages), "state": state})


def _runs(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")

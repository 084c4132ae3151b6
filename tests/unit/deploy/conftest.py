"""A finished run in a folder's store, by its manifests alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from halops.artifact import FileEntry, Manifest, Producer, now
from halops.names import MANIFEST
from halops.plan import step_of
from halops.profile import load_profile
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.runstate import spec_key
from halops.site import Site, make_site
from halops.stages.inputs import pinned_inputs
from halops.store.base import Store
from halops.store.table import open_store

FILES = {
    "convert": "halops-q4_k_m.gguf", "train": "adapter/adapter_model.safetensors", "verify": "verify.json",
    "base-gguf": "base-q4_k_m.gguf", "adapter-gguf": "halops-adapter-f16.gguf",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def spec(store: Store) -> RunSpec:
    made = RunSpec(
        name="ops", profile=load_profile("rtx8"), base=BaseRef(uri="file:///b#sha256=0"), llama_cpp="x",
        dataset=DatasetRef(uri="rows.jsonl", sha256="a" * 64, size=1),
    )  # fmt: skip
    store.write(spec_key(made.run_id), made.to_bytes())
    return made


@pytest.fixture
def site() -> Site:
    images = {name: f"registry.example/halops-{name}@sha256:{'1' * 64}" for name in ("serve", "merge")}
    s3 = {"endpoint_url": "http://10.0.0.5:9000", "region": "eu-1"}
    return make_site({"store": "s3://bucket/halops", "images": images, "s3": s3, "secrets": {"s3": "keys"}})


def finish(store: Store, spec: RunSpec, *stages: str) -> None:
    """Leave stages' manifests, and a byte for each of their files."""
    for stage in stages:
        step = step_of(spec, stage)
        prefix, inputs = step.prefix, pinned_inputs(store, spec, step)
        name = FILES.get(stage, "file")
        entry = FileEntry(path=name, key=f"{prefix}/attempts/a/{name}", size=1, sha256=DIGITS[stage] * 64)
        store.write(entry.key, b"x")
        manifest = Manifest(
            run_id=spec.run_id, attempt="a", spec_sha256=spec.sha256, producer=Producer(stage=stage, code_version="0"),
            inputs=inputs, files=(entry,), started=now(), finished=now(),
        )  # fmt: skip
        store.write(f"{prefix}/{MANIFEST}", manifest.to_bytes())


DIGITS = {
    "base": "b", "data": "d", "train": "1", "merge": "2", "convert": "c", "verify": "e", "base-gguf": "4",
    "adapter-gguf": "5",
}  # fmt: skip
ALL = ("base", "data", "train", "merge", "convert", "verify")

"""The whole pre-flight list, on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from halops.checks.base import fail, ok, softened, warn
from halops.checks.view import ClusterView
from halops.doctor import Patient, examine, to_json, worst
from halops.errors import ConfigError
from halops.profile import load_profile
from halops.runspec import BaseRef
from halops.site import Site
from halops.store.base import Store
from halops.store.table import open_store

SAMPLE = Path(__file__).parents[2] / "data" / "final" / "train.jsonl"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / ".halops").as_uri())


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without nvidia-smi (nor compilers), whatever this one has, and no hub."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("halops.models.hub.PAUSE", 0.01)


def patient(profile: str, store: Store, folder: Path, *overrides: str, data: str = str(SAMPLE)) -> Patient:
    loaded = load_profile(profile, overrides)
    return Patient(profile=loaded, folder=folder, data=data, open_store=lambda: store)


def test_the_local_profile(store: Store, tmp_path: Path) -> None:
    checks = {check.name: check for check in examine(patient("local", store, tmp_path))}
    assert checks["GPU"].status == "skip"
    for name in ("data", "probes", "store", "model", "disk", "cores"):
        assert checks[name].status == "ok", checks[name]
    assert checks["RAM"].status in ("ok", "warn")
    assert "llama.cpp" in checks


def test_a_gpu_profile_on_a_machine_without_one(store: Store, tmp_path: Path) -> None:
    checks = {check.name: check for check in examine(patient("rtx8", store, tmp_path, "cluster.backend=local"))}
    assert checks["GPU"].status == "fail"
    assert checks["model"].status == "fail"  # no hub there
    assert "needed for a whole run" in checks["disk"].detail


def test_a_cluster_profile_asks_little_of_this_machine(store: Store, tmp_path: Path) -> None:
    checks = list(examine(patient("rtx8", store, tmp_path)))
    assert worst(checks) == "warn"
    assert [check.name for check in checks if check.status == "skip"] == ["GPU", "packages", "disk, RAM, port"]


def test_a_cluster_profile_looks_at_the_site_and_the_cluster(store: Store, tmp_path: Path) -> None:
    def absent() -> ClusterView:
        raise ConfigError("no cluster is configured", remedy="set KUBECONFIG")

    ill = replace(patient("rtx8", store, tmp_path), site=Site(), open_cluster=absent)
    checks = {check.name: check for check in examine(ill)}
    assert [checks[name].status for name in ("images", "store of pods", "cluster")] == ["fail"] * 3
    assert checks["cluster"].remedy == "set KUBECONFIG"
    here = replace(ill, profile=load_profile("local"))
    assert not {"images", "store of pods", "cluster"} & {check.name for check in examine(here)}


def test_a_held_card_here_does_not_stop_a_cluster_run(store: Store, tmp_path: Path) -> None:
    answer = Path(__file__).parent / "checks" / "smi" / "rtx3070_held.xml"
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nwhile IFS= read -r line; do echo "$line"; done < {answer}\n')
    program.chmod(0o755)
    for backend, status in (("kube", "warn"), ("local", "fail")):
        found = list(examine(patient("rtx8", store, tmp_path, f"cluster.backend={backend}")))
        checks = {check.name: check for check in found}
        assert checks["GPU memory"].status == status
        assert "python (pid 48113)" in checks["GPU memory"].detail


def test_a_mirrored_base_needs_no_hub(store: Store, tmp_path: Path) -> None:
    profile = load_profile("rtx8")
    store.write(f"{BaseRef(uri=profile.model.uri).prefix}/manifest.json", b"{}")
    checks = {check.name: check for check in examine(patient("rtx8", store, tmp_path, "cluster.backend=local"))}
    assert checks["model"].status == "ok"
    assert "mirrored" in checks["model"].detail


def test_without_dimensions_the_need_is_not_known(store: Store, tmp_path: Path) -> None:
    ill = patient("local", store, tmp_path, "model.dimensions=null", data=str(tmp_path / "none"))
    checks = {check.name: check for check in examine(ill)}
    assert checks["disk, RAM"].status == "skip"
    assert checks["data"].status == "fail"


def test_worst_and_json() -> None:
    checks = [ok("a", "fine"), warn("b", "hm", "look"), fail("c", "no", "mend")]
    assert [worst(checks), worst(checks[:2]), worst(checks[:1])] == ["fail", "warn", "ok"]
    assert [check.status for check in softened(checks)] == ["ok", "warn", "warn"]
    assert json.loads(to_json(checks))[2] == {"name": "c", "status": "fail", "detail": "no", "remedy": "mend"}

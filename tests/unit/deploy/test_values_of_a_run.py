"""From a run's manifests to the chart's values, and back from a pod's annotations to the rows."""

from __future__ import annotations

import pytest

from halops.deploy.candidate import fast_candidate, find_candidate, require_verified
from halops.deploy.trace import trace_pod
from halops.deploy.values import chart_values, preset, provenance
from halops.errors import ConfigError, NotFoundError, VerificationError
from halops.runspec import RunSpec
from halops.site import Site, make_site
from halops.store.base import Store
from tests.helm import merged, rendered
from tests.unit.deploy.conftest import ALL, finish


def test_the_chart_takes_a_runs_values(store: Store, spec: RunSpec, site: Site) -> None:
    finish(store, spec, *ALL)
    candidate = find_candidate(store, None)
    assert spec.profile.model.dimensions
    values = chart_values(candidate, site, "s3://bucket/halops?endpoint=http://x", spec.profile.model.dimensions)
    assert values["model"]["url"] == f"s3://bucket/halops/{candidate.file.key}"
    assert values["model"]["sha256"] == "c" * 64
    assert values["gpu"] == {"memoryGiB": 8, "layers": 99}
    (rule,) = values["networkPolicy"]["egress"]
    assert rule == {"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"protocol": "TCP", "port": 9000}]}
    deployment = next(item for item in rendered(values) if item["kind"] == "Deployment")
    notes = deployment["spec"]["template"]["metadata"]["annotations"]
    assert notes["halops.dev/run-id"] == spec.run_id
    assert notes["halops.dev/gguf-sha256"] == "c" * 64
    assert notes["halops.dev/verified"] == "yes"
    assert rendered(merged(values, {"gpu": {"count": 0}}))


def test_what_a_site_lacks_is_said_all_at_once(store: Store, spec: RunSpec) -> None:
    finish(store, spec, *ALL)
    assert spec.profile.model.dimensions
    with pytest.raises(ConfigError) as caught:
        chart_values(find_candidate(store, None), make_site({}), "file:///runs", spec.profile.model.dimensions)
    text = str(caught.value)
    assert "images.serve" in text
    assert "images.merge" in text
    assert "file:///runs" in text


def test_a_run_that_is_not_verified_needs_force(store: Store, spec: RunSpec) -> None:
    finish(store, spec, *ALL[:-1])
    candidate = find_candidate(store, spec.run_id)
    with pytest.raises(VerificationError, match="not verified"):
        require_verified(candidate, force=False)
    require_verified(candidate, force=True)
    assert provenance(candidate)["verified"] == "no"
    finish(store, spec, "verify")
    require_verified(find_candidate(store, spec.run_id), force=False)


def test_a_run_without_a_file_to_serve(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data", "train")
    with pytest.raises(NotFoundError, match="no GGUF file yet"):
        find_candidate(store, None)


def test_the_adapter_on_the_base_before_the_run_is_merged(store: Store, spec: RunSpec, site: Site) -> None:
    finish(store, spec, "base", "data", "train", "base-gguf")
    with pytest.raises(NotFoundError, match="has no adapter-gguf yet"):
        fast_candidate(store, spec)
    finish(store, spec, "adapter-gguf")
    candidate = fast_candidate(store, spec)
    assert spec.profile.model.dimensions
    values = chart_values(candidate, site, "s3://bucket/halops", spec.profile.model.dimensions)
    assert values["model"]["url"].startswith(f"s3://bucket/halops/bases/{spec.base.digest}/gguf/q4_k_m-x/")
    assert values["model"]["sha256"] == "4" * 64
    assert values["adapter"]["sha256"] == "5" * 64
    deployment = next(item for item in rendered(values) if item["kind"] == "Deployment")
    notes = deployment["spec"]["template"]["metadata"]["annotations"]
    assert notes["halops.dev/verified"] == "no"
    found = trace_pod(store, "ops-1", {key.removeprefix("halops.dev/"): value for key, value in notes.items()})
    assert found.problems == ("its run was not verified when it was deployed",)
    assert [row.what for row in found.rows][1:4] == ["halops-adapter-f16.gguf", "base-q4_k_m.gguf", "adapter"]


def test_an_adapter_of_another_training_is_not_served(store: Store, spec: RunSpec) -> None:
    finish(store, spec, "base", "data", "train", "base-gguf", "adapter-gguf")
    finish(store, spec, "train")  # again: its manifest has another time
    with pytest.raises(NotFoundError, match="has no adapter-gguf yet"):
        fast_candidate(store, spec)


@pytest.mark.parametrize(("gib", "file"), [(8, "values-8gb.yaml"), (12, "values-8gb.yaml"), (40, "values-a100.yaml")])
def test_the_preset_goes_by_the_card(gib: float, file: str) -> None:
    assert preset(gib) == file


def test_a_pod_is_traced_to_its_rows(store: Store, spec: RunSpec) -> None:
    finish(store, spec, *ALL)
    notes = provenance(find_candidate(store, None)) | {"gguf-sha256": "c" * 64}
    found = trace_pod(store, "ops-1", notes)
    assert found.rows[0].what == "pod ops-1"
    assert found.rows[-1].digest == "a" * 64
    assert found.problems == ()
    assert trace_pod(store, "ops-1", notes | {"gguf-sha256": "f" * 64}).problems == (
        f"its GGUF {'f' * 16} is not the run's",
    )
    assert trace_pod(store, "ops-1", {"gguf-sha256": "f" * 64}).problems == ("it serves a file of no run",)
    with pytest.raises(NotFoundError):
        trace_pod(store, "ops-1", notes | {"run-id": "gone-0123456789"})

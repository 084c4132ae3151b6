"""k8s/: every overlay builds, fits four Kubernetes minors strictly, and says what the checklists ask for."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from halops.manifests.pods import labels
from halops.names import COORDINATOR, STAGES
from halops.quantities import parse_quantity
from tests.kube_schemas import MINORS, validate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml"))
Object = dict[str, Any]


@cache
def kustomize() -> str:
    tool = ROOT / "tools" / "kustomize.sh"
    return subprocess.run([tool], check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout.strip()


@cache
def built(overlay: str) -> list[Object]:
    command = [kustomize(), "build", str(FOLDER / "overlays" / overlay)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    return [item for item in yaml.safe_load_all(answer.stdout) if item]


def of_kind(overlay: str, kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in built(overlay) if item["kind"] == kind}


def test_there_are_overlays() -> None:
    assert {"rtx8", "a100", "a100-kueue"} <= set(OVERLAYS)


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_fits_every_minor(overlay: str, minor: str) -> None:
    assert built(overlay)
    assert validate(built(overlay), minor) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_labels_and_namespace(overlay: str) -> None:
    for item in built(overlay):
        name = f"{item['kind']} {item['metadata']['name']}"
        found = item["metadata"].get("labels", {})
        assert found.get("app.kubernetes.io/name") == "halops", name
        assert found.get("app.kubernetes.io/part-of") == "halops", name
        cluster_wide = item["kind"] in {
            "Namespace",
            "ClusterRole",
            "ClusterRoleBinding",
            "ResourceFlavor",
            "ClusterQueue",
        }
        assert item["metadata"].get("namespace") == (None if cluster_wide else "halops"), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_is_restricted_and_holds_no_secret(overlay: str) -> None:
    marks = of_kind(overlay, "Namespace")["halops"]["metadata"]["labels"]
    assert {marks[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    assert not of_kind(overlay, "Secret")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_service_accounts(overlay: str) -> None:
    accounts = of_kind(overlay, "ServiceAccount")
    assert set(accounts) == {f"halops-{stage}" for stage in (*STAGES, COORDINATOR)}
    mounted = {name for name, item in accounts.items() if item["automountServiceAccountToken"]}
    assert mounted == {"halops-coordinator"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_goes_in_or_out_but_what_is_named(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    deny = policies["halops-default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert {"halops-dns", "halops-store", "halops-coordinator", "halops-base-hub"} <= set(policies)
    for name, policy in policies.items():
        assert not policy["spec"].get("ingress"), name
        for rule in policy["spec"].get("egress", []):
            assert rule.get("to"), name
            assert rule.get("ports"), name


def test_policies_select_the_pods_that_they_are_for() -> None:
    def chosen(stage: str) -> set[str]:
        return {
            name
            for name, item in policies.items()
            if selects(item["spec"]["podSelector"], labels("a-0123456789", stage))
        }

    policies = of_kind("rtx8", "NetworkPolicy")
    everyone = {"halops-default-deny", "halops-dns", "halops-store"}
    assert chosen("train") == everyone
    assert chosen("base") == everyone | {"halops-base-hub"}
    assert chosen(COORDINATOR) == everyone | {"halops-coordinator"}


def selects(selector: Object, found: dict[str, str]) -> bool:
    exact = all(found.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(
        item["operator"] == "Exists" and item["key"] in found for item in selector.get("matchExpressions", [])
    )


def test_a_public_store_leaves_private_networks_out() -> None:
    rule = of_kind("a100", "NetworkPolicy")["halops-store"]["spec"]["egress"][0]
    excepted = set(rule["to"][0]["ipBlock"]["except"])
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= excepted
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]


def test_a_submitter_may_grant_what_a_run_needs() -> None:
    """Nobody can make a Role with more than they hold, so theirs contains the coordinator's, and makes each kind."""
    held = granted(of_kind("rtx8", "ClusterRole")["halops-submitter"])
    runs = [item for path in (FOLDER / "golden").glob("*.yaml") for item in yaml.safe_load_all(path.read_text())]
    roles = [item for item in runs if item["kind"] == "Role"]
    assert roles
    for role in roles:
        assert granted(role) <= held
    for item in runs:
        group = item["apiVersion"].rpartition("/")[0]
        plural = "networkpolicies" if item["kind"] == "NetworkPolicy" else f"{item['kind'].lower()}s"
        assert (group, plural, "create") in held, item["kind"]
    assert not any(resource == "secrets" for _, resource, _ in held)


def granted(role: Object) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("profile", ["rtx8", "a100"])
def test_a_shipped_profile_fits_its_overlays_limits(profile: str) -> None:
    limits = of_kind(profile, "LimitRange")["halops"]["spec"]["limits"][0]["max"]
    quota = of_kind(profile, "ResourceQuota")["halops"]["spec"]["hard"]
    jobs = [
        item
        for item in yaml.safe_load_all((FOLDER / "golden" / f"{profile}.yaml").read_text())
        if item["kind"] == "Job"
    ]
    assert jobs
    for job in jobs:
        asked = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for resource, most in limits.items():
            assert parse_quantity(asked[resource]) <= parse_quantity(most), (job["metadata"]["name"], resource)
        assert float(asked.get("nvidia.com/gpu", 0)) <= float(quota["requests.nvidia.com/gpu"])


def test_kueue_counts_all_that_a_gpu_job_asks_for() -> None:
    queue = of_kind("a100-kueue", "ClusterQueue")["halops"]["spec"]
    group = queue["resourceGroups"][0]
    flavors = of_kind("a100-kueue", "ResourceFlavor")
    assert {item["name"] for item in group["flavors"]} == set(flavors)
    for flavor in group["flavors"]:
        assert [item["name"] for item in flavor["resources"]] == group["coveredResources"]
    golden = yaml.safe_load_all((FOLDER / "golden" / "a100.yaml").read_text())
    train = next(item for item in golden if item["metadata"]["name"].endswith("-train"))
    requests = train["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert set(requests) <= set(group["coveredResources"])
    assert all(set(item["spec"]["nodeLabels"]) == {"nvidia.com/gpu.memory"} for item in flavors.values())
    local = of_kind("a100-kueue", "LocalQueue")["gpu"]
    assert local["spec"]["clusterQueue"] == "halops"


def broken(**spec: Any) -> Object:
    container = {"name": "stage", "image": "i", "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": template} | spec}


@pytest.mark.parametrize("minor", MINORS)
def test_validation_is_strict(minor: str) -> None:
    assert validate([broken()], minor) == []
    assert validate([broken(backofLimit=3)], minor)
    assert validate([broken(backoffLimit="3")], minor)
    job = broken()
    job["spec"]["template"]["spec"]["containers"][0]["imge"] = "i"
    (problem,) = validate([job], minor)
    assert problem.startswith("Job/x: spec.template.spec.containers.0: ")
    assert "'imge' was unexpected" in problem
    del job["spec"]["template"]["spec"]["containers"][0]["imge"]
    del job["spec"]["template"]["spec"]["containers"][0]["name"]
    assert "'name' is a required property" in validate([job], minor)[0]
    assert validate([{"apiVersion": "batch/v1", "kind": "Jobb", "metadata": {"name": "x"}}], minor)
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "x"}}
    assert validate([flavor | {"spec": {"nodeLabels": {"a": "b"}}}], minor) == []
    assert validate([flavor | {"spec": {"nodeLabel": {"a": "b"}}}], minor)


def test_minors_differ() -> None:
    """hostnameOverride came with 1.34."""
    spec = {"containers": [{"name": "a"}], "hostnameOverride": "x"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    assert [bool(validate([pod], minor)) for minor in MINORS] == [True, False, False, False]

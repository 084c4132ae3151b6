"""What the chart renders fits four Kubernetes minors strictly, and `restricted` admits its pods."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import CHART, DIGEST, GIVEN, merged, of_kind, rendered, server_of, template, tool
from tests.kube_schemas import MINORS, validate

WAIVED = {"secret": "", "disabled": "I understand that everyone who can reach this server may use it"}
SOURCES: dict[str, dict[str, Any]] = {
    "fetched": {"fetch": {"s3Secret": "s3", "s3Endpoint": "http://s3:9000", "httpsSecret": "hub", "caConfigMap": "ca"}},
    "cached": {"cache": {"storageClass": "local-path"}},
    "claim": {"model": {"source": "claim", "claim": "c", "file": "m.gguf"}},
    "image": {"model": {"source": "image", "image": f"r/m@sha256:{DIGEST}", "file": "m.gguf"}},
    "adapter": {"adapter": {"url": "https://h/a.gguf", "sha256": DIGEST[:-1] + "b"}, "provenance": {"run-id": "ops-1"}},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cpu": {"gpu": {"count": 0}},
    "open": {"auth": WAIVED, "networkPolicy": {"enabled": False}},
    "everything": {
        "replicas": 3, "strategy": "Recreate", "track": "green", "imagePullSecrets": ["pull"], "priorityClass": "high",
        "nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "team", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                                       "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}],
        "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"}, "gpu": {"runtimeClass": "nvidia"},
        "service": {"track": "blue"}, "serviceAccount": {"annotations": {"role": "r"}},
        "metrics": {"serviceMonitor": True, "secret": "p", "rules": True, "dashboard": True, "minTokensPerSecond": 20},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "gw"}], "hostnames": ["a.example"]},
        "ingress": {"enabled": True, "host": "a.example", "tlsSecret": "t", "className": "nginx"},
    },
    "hpa": {"autoscaling": {"type": "hpa", "minReplicas": 2}},
    "keda": {"autoscaling": {"type": "keda", "prometheus": "http://prometheus:9090"}},
}  # fmt: skip
CASES = [*(f"{name}/plain" for name in SOURCES), *(f"fetched/{name}" for name in SETTINGS)]


@cache
def case(name: str) -> str:
    source, settings = name.split("/")
    return json.dumps(rendered(merged(SOURCES[source], SETTINGS[settings])))


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("name", CASES)
def test_every_form_fits_every_minor(name: str, minor: str) -> None:
    objects = json.loads(case(name))
    assert len(objects) >= 4
    problems = validate(objects, minor)
    assert problems == []


@pytest.mark.parametrize("name", CASES)
def test_pods_are_restricted(name: str) -> None:
    """All that `restricted` judges by; the real admission is asked in tests/cluster."""
    pods = [of_kind(json.loads(case(name)), "Deployment")["spec"]["template"]["spec"]]
    pods += [item["spec"] for item in json.loads(case(name)) if item["kind"] == "Pod"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) & {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "image"}
                   for volume in pod["volumes"])  # fmt: skip
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", CASES)
def test_every_volume_is_mounted_and_every_mount_is_a_volume(name: str) -> None:
    pod = of_kind(json.loads(case(name)), "Deployment")["spec"]["template"]["spec"]
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", CASES)
def test_objects_are_labelled_and_named_after_the_release(name: str) -> None:
    for item in json.loads(case(name)):
        labels = item["metadata"]["labels"]
        assert (labels["app.kubernetes.io/name"], labels["app.kubernetes.io/instance"]) == ("halops-inference", "ops")
        assert re.fullmatch(r"ops(-[a-z]+)?", item["metadata"]["name"])
        assert not item["kind"].startswith("Cluster")


def test_the_default_is_plain() -> None:
    """Nothing that a bare cluster lacks, and no Secret: keys are somebody else's to make."""
    kinds = [item["kind"] for item in rendered({})]
    assert sorted(kinds) == sorted(
        ["ConfigMap", "Deployment", "NetworkPolicy", "NetworkPolicy", "Pod", "Service", "Service", "ServiceAccount"]
    )


@pytest.mark.parametrize("preset", sorted(path.name for path in CHART.glob("values-*.yaml")))
def test_presets_render(preset: str) -> None:
    args = server_of(rendered({}, CHART / preset))["args"]
    assert args[args.index("--parallel") + 1] == {"values-8gb.yaml": "2", "values-a100.yaml": "16"}[preset]


def test_no_key_is_in_a_manifest() -> None:
    """Only names of Secrets: what holds them is mounted, or taken into the environment by reference."""
    text = json.dumps(rendered(SOURCES["fetched"]))
    assert "secretKeyRef" in text
    assert "stringData" not in text
    container = of_kind(json.loads(text), "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    literal = {entry["name"] for entry in container["env"] if "value" in entry}
    assert not {name for name in literal if re.search("KEY|TOKEN", name)}


def test_a_value_that_nobody_knows_is_an_error() -> None:
    """At every level: the schema has no open object but those that are meant to be."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    loose = [path for path, node in objects_of(schema, "") if node.get("additionalProperties") is not False]
    free = re.compile(r"provenance|nnotations|podLabels|nodeSelector|labels|requests|limits|items|global|^$")
    assert [path for path in loose if not free.search(path)] == []
    assert schema["additionalProperties"] is False
    done = template({"server": {"paralel": 2}})
    assert "paralel" in done.stderr


def objects_of(node: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)] if node.get("type") == "object" else []
    for name, inner in node.get("properties", {}).items():
        found += objects_of(inner, f"{path}.{name}")
    return found + (objects_of(node["items"], f"{path}.items") if isinstance(node.get("items"), dict) else [])


def test_a_name_leaves_room_for_what_is_appended() -> None:
    done = template({}, release="a-release-with-a-name-that-is-longer-than-47-chars")
    assert "has more than 47 characters: install under a shorter one" in done.stderr


def test_what_must_be_given_is_little() -> None:
    assert set(GIVEN) == {"image", "fetch", "model", "auth"}


def test_a_new_chart_version_alone_restarts_nobody(tmp_path: Path) -> None:
    """Loading a model again costs minutes; a change of what the probes run is worth it."""

    def pod(chart: Path) -> dict[str, Any]:
        words = [tool(), "template", "ops", str(chart), "--values", str(CHART / "tests" / "given.yaml")]
        text = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
        return dict(of_kind([item for item in yaml.safe_load_all(text) if item], "Deployment")["spec"]["template"])

    copy = shutil.copytree(CHART, tmp_path / "chart")
    meta = copy / "Chart.yaml"
    meta.write_text(meta.read_text().replace("version: 0.1.0", "version: 9.9.9"))
    assert "9.9.9" in meta.read_text()
    assert pod(copy) == pod(CHART)
    (copy / "files" / "drain.sh").write_text("exit 0")
    assert pod(copy) != pod(CHART)

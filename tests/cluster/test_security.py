"""What pods may do, and what nobody gets to see."""

from __future__ import annotations

import json

import pytest

from tests.cluster.handle import Cluster
from tests.cluster.place import SECRET, Place
from tests.cluster.pods import busybox, shell, start

pytestmark = pytest.mark.slow


def can(place: Place, account: str, verb: str, what: str) -> bool:
    """The server's own judgement of an account's right."""
    who = f"system:serviceaccount:{place.namespace}:halops-{account}"
    what, _, part = what.partition(":")
    words = [what, f"--subresource={part}"] if part else [what]
    return place.kubectl("auth", "can-i", verb, *words, f"--as={who}", check=False).strip() == "yes"


def test_the_coordinator_may_do_what_it_does_and_nothing_else(finished: tuple[Place, str]) -> None:
    place, run = finished
    for verb, what in (("create", "jobs"), ("list", "jobs"), ("list", "pods"), ("get", f"configmaps/halops-{run}"),
                       ("patch", f"configmaps/halops-{run}")):  # fmt: skip
        assert can(place, "coordinator", verb, what), f"{verb} {what}"
    for verb, what in (("delete", "jobs"), ("create", "pods"), ("delete", "pods"), ("get", "secrets"),
                       ("list", "secrets"), ("get", "configmaps/halops-other"), ("create", "configmaps"),
                       ("delete", f"configmaps/halops-{run}"), ("get", "pods:log"), ("create", "pods:exec"),
                       ("create", "roles"), ("create", "rolebindings"), ("get", "nodes"), ("create", "services"),
                       ("impersonate", "serviceaccounts")):  # fmt: skip
        assert not can(place, "coordinator", verb, what), f"{verb} {what}"


@pytest.mark.parametrize("stage", ["base", "data", "train", "merge", "convert", "verify"])
def test_a_stage_may_do_nothing(finished: tuple[Place, str], stage: str) -> None:
    place, run = finished
    for verb, what in (("get", f"configmaps/halops-{run}"), ("list", "pods"), ("get", "secrets"), ("list", "jobs")):
        assert not can(place, stage, verb, what), f"{verb} {what}"
    pods = place.objects("pods", run, stage)
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in pods)
    assert not any("kube-api-access" in volume["name"] for pod in pods for volume in pod["spec"]["volumes"])


def test_the_secret_s_value_is_nowhere(finished: tuple[Place, str]) -> None:
    place, run = finished
    assert place.cluster.store
    canary = place.cluster.store.keys["AWS_SECRET_ACCESS_KEY"]
    assert len(canary) >= 16
    shown = [place.kubectl("get", kind, "-o", "yaml") for kind in
             ("configmaps", "jobs", "pods", "events", "roles", "serviceaccounts", "networkpolicies")]  # fmt: skip
    shown += [place.kubectl("logs", f"pod/{pod['metadata']['name']}") for pod in place.objects("pods", run)]
    shown += [place.halops(*words).stdout for words in (("status", "--json"), ("artifacts", "--json"), ("trace",))]
    shown += [path.read_text(errors="replace") for path in place.key(run).rglob("*.json*")]
    shown.append((place.folder / "halops.yaml").read_text())
    assert all(canary not in text for text in shown)
    assert SECRET in "".join(shown)  # its name is, of course: the search looks at the right things


@pytest.mark.usefixtures("own_cluster")
def test_a_pod_of_a_run_reaches_the_store_and_nothing_else(place: Place, cluster: Cluster) -> None:
    labels = {"halops.dev/run-id": "x-0123456789", "halops.dev/stage": "merge"}
    stage = busybox(cluster, "stage", labels=labels)
    other = busybox(cluster, "other", "httpd", "-f", "-p", "8080", labels={"app": "other"})
    start(cluster, place.namespace, stage, other)
    address = place.kubectl("get", "pod", "other", "-o", "jsonpath={.status.podIP}")
    assert cluster.store
    host, _, port = cluster.store.endpoint.partition("://")[2].partition(":")

    def connects(to: str, at: str) -> bool:
        command = f"timeout 4 nc -w 2 {to} {at} </dev/null >/dev/null && echo yes"
        return "yes" in shell(cluster, place.namespace, "stage", command, check=False)

    assert connects(host, port)
    assert not connects(address, "8080")
    assert not connects(host, "6443")  # the API server, which only the coordinator may reach
    assert "Name:" in shell(cluster, place.namespace, "stage", "nslookup kubernetes.default.svc.cluster.local",
                            check=False)  # fmt: skip


def test_a_user_with_the_submitter_role_is_enough(place: Place) -> None:
    """Everything up to a finished run, with the rights of k8s/base/submitter.yaml alone."""
    subject = {"kind": "User", "name": "ada", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "ada"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "halops-submitter"},
        "subjects": [subject],
    }  # fmt: skip
    place.kubectl("apply", "-f", "-", text=json.dumps(binding))
    config = json.loads(place.cluster.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] |= {"as": "ada"}
    path = place.folder / "kubeconfig"
    path.write_text(json.dumps(config))
    command = ["env", f"KUBECONFIG={path}", *place.cluster.halops_words()]
    for words in (place.submit_words("--wait", training__max_steps=3), ["status"], ["logs", "tiny", "train"],
                  ["delete", "tiny", "--yes"]):  # fmt: skip
        place.cluster.run([*command, *words], cwd=place.folder)

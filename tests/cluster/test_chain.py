"""Runs through real Jobs on a real cluster: the chain itself, and every verb that a person types about it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster.handle import Cluster
from tests.cluster.place import Place

pytestmark = [pytest.mark.slow, pytest.mark.measured]

MOMENTS = (0.6, 1.2, 1.8, 2.6)  # spread over the seconds that a submit takes
STAGES = ("base", "data", "train", "merge", "convert", "verify")


def test_a_run_goes_through_its_jobs_to_verified_files(finished: tuple[Place, str]) -> None:
    place, run = finished
    status = place.status(run)
    assert [stage["state"] for stage in status["stages"]] == 6 * ["succeeded"]
    jobs = place.objects("jobs", run)
    assert sorted(job["metadata"]["labels"]["halops.dev/stage"] for job in jobs) == sorted(("coordinator", *STAGES[1:]))
    nodes = {pod["metadata"]["labels"]["halops.dev/stage"]: pod["spec"]["nodeName"]
             for pod in place.objects("pods", run)}  # fmt: skip
    assert nodes["train"] == "node2"  # the one with the GPU
    manifest = place.manifest(run, "verify")
    assert manifest["producer"]["image"] == place.cluster.images["convert"]
    files = place.json("artifacts", run)
    made = {Path(item["path"]).name for item in files if item["stage"] == "convert"}
    assert {"halops-f16.gguf", "halops-q4_k_m.gguf"} <= made
    assert all(item["uri"].startswith("s3://") for item in files)


def test_all_pods_were_admitted_as_restricted(finished: tuple[Place, str]) -> None:
    place, run = finished
    label = "{.metadata.labels.pod-security\\.kubernetes\\.io/enforce}"
    assert place.cluster.kubectl("get", "namespace", place.namespace, "-o", f"jsonpath={label}") == "restricted"
    pods = place.objects("pods", run)
    assert {pod["metadata"]["labels"]["halops.dev/stage"] for pod in pods} >= {"data", "train", "convert", "verify"}
    for pod in pods:
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_everything_is_owned_by_the_root(finished: tuple[Place, str]) -> None:
    place, run = finished
    root = json.loads(place.kubectl("get", "configmap", f"halops-{run}", "-o", "json"))
    for kind in ("jobs", "roles", "rolebindings"):
        for item in place.objects(kind, run):
            assert [owner["uid"] for owner in item["metadata"]["ownerReferences"]] == [root["metadata"]["uid"]]
    assert root["immutable"]
    assert root["metadata"]["annotations"]["halops.dev/state"] == "succeeded"


def test_logs_of_each_stage_are_there(finished: tuple[Place, str]) -> None:
    place, run = finished
    assert "20/20 steps" in place.halops("logs", run, "train").stdout
    assert "probes" in place.halops("logs", run).stdout  # the last stage
    place.kubectl("delete", "pods", "-l", f"halops.dev/run-id={run},halops.dev/stage=merge", "--wait=true")
    assert place.halops("logs", run, "merge").stdout.strip()  # the store keeps what pods take with them


def test_the_same_again_finds_all_of_it_done(finished: tuple[Place, str]) -> None:
    place, run = finished
    before = {stage: place.manifest(run, stage) for stage in STAGES[1:]}
    assert place.submit("--wait") != ""
    assert {stage: place.manifest(run, stage) for stage in STAGES[1:]} == before
    attempts = [job["metadata"]["labels"].get("halops.dev/attempt", "1") for job in place.objects("jobs", run)]
    assert set(attempts) == {"1"}


def test_trace_goes_from_files_to_rows(finished: tuple[Place, str]) -> None:
    place, run = finished
    assert "train.jsonl" in place.halops("trace", run).stdout


def test_the_objects_can_be_printed_and_judged(place: Place) -> None:
    done = place.halops(*place.submit_words("--dry-run=yaml"))
    kinds = [item["kind"] for item in yaml.safe_load_all(done.stdout)]
    assert kinds == ["ConfigMap", "Role", "RoleBinding", *6 * ["Job"]]
    assert "would accept all of it" in done.stderr
    assert place.kubectl("get", "jobs", "-o", "name") == ""


def test_cancel_saves_a_checkpoint_and_resume_goes_on_from_it(place: Place) -> None:
    run = place.submit(training__max_steps=25)
    place.training(run, step=3)
    place.halops("cancel", run)
    assert place.status(run)["state"] == "cancelled"
    # Ended pods are enough, and what cancel waits for: the kubelet may take a moment longer to remove them.
    assert {pod["status"]["phase"] for pod in place.objects("pods", run, "train")} <= {"Succeeded", "Failed"}
    saved = place.newest_checkpoint(run)
    place.halops("resume", run)
    resumed = place.reached(run, "train")["metrics"]["resumed_from_step"]
    assert resumed == saved
    assert resumed > 3 or saved % 3  # SIGTERM made one of its own, or the last regular one was later
    assert len(place.objects("jobs", run, "train")) == 1
    place.halops("cancel", run)


def test_delete_leaves_nothing(place: Place) -> None:
    run = place.submit(training__max_steps=6)
    refused = place.halops("delete", run, "--yes", check=False)
    assert refused.returncode == 4
    place.training(run)
    place.halops("cancel", run)
    place.halops("delete", run, "--yes")
    deadline = time.monotonic() + 60
    while place.kubectl("get", "all,cm,role,rolebinding", "-l", f"halops.dev/run-id={run}", "-o", "name"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert not list(place.key(run).glob("**/*manifest.json"))


def test_another_run_of_the_name_is_asked_about(place: Place) -> None:
    run = place.submit(training__max_steps=40)
    again = place.halops(*place.submit_words(training__max_steps=41), check=False)
    assert again.returncode == 4
    assert "--new" in again.stderr
    place.halops("cancel", run)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_submit_that_is_killed_is_mended_by_the_same_command(place: Place, moment: float) -> None:
    """Before the root, between objects, after the coordinator."""
    words = [*place.cluster.prefix, *place.cluster.halops_words(), *place.submit_words(training__max_steps=3)]
    with subprocess.Popen(words, cwd=place.folder, env=place.cluster.environment, stdout=-3, stderr=-3) as child:
        time.sleep(moment)
        child.kill()
    run = place.submit(training__max_steps=3)
    if moment == MOMENTS[-1]:
        place.succeeded(run)
    else:
        place.done(run, "data")
    roots = place.kubectl("get", "configmaps", "-l", "halops.dev/run-id", "-o", "name").split()
    assert roots == [f"configmap/halops-{run}"]
    stages = [job["metadata"]["labels"]["halops.dev/stage"] for job in place.objects("jobs", run)]
    assert len(stages) == len(set(stages))


def test_five_submits_at_once_are_one_run(place: Place) -> None:
    words = [*place.cluster.prefix, *place.cluster.halops_words(), *place.submit_words(training__max_steps=3)]
    children = [
        subprocess.Popen(words, cwd=place.folder, env=place.cluster.environment, stdout=-1, stderr=-1, text=True)
        for _ in range(5)
    ]
    ended = [(*child.communicate(), child.returncode) for child in children]
    assert {code for _, _, code in ended} == {0}, ended
    runs = {out.strip() for out, _, _ in ended}
    assert len(runs) == 1
    run = runs.pop()
    place.succeeded(run)
    assert len(place.objects("jobs", run)) == 6


def test_a_changed_site_makes_the_objects_anew_and_keeps_what_is_done(place: Place, cluster: Cluster) -> None:
    run = place.submit(training__max_steps=3)
    place.done(run, "train")
    before = place.manifest(run, "train")
    path = place.folder / "halops.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(settings | {"queue": "other"}))
    done = place.halops(*place.submit_words(training__max_steps=3))
    assert "settings changed" in done.stderr
    place.done(run, "merge")
    assert place.manifest(run, "train") == before
    assert "other" in place.kubectl("get", "configmap", f"halops-{run}", "-o", "yaml")

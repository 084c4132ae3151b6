"""What can't work says why, at once, and costs nothing more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.faults import kill_process
from tests.cluster.handle import Cluster
from tests.cluster.listener import listening
from tests.cluster.place import TINY, Place, put_secret
from tests.cluster.pods import eventually
from tests.cluster.test_faults import attempts

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("own_cluster")
def test_bad_data_fails_once_names_the_line_and_is_told_to_the_webhook(place: Place) -> None:
    path = place.folder / "data" / "final" / "train.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:6], '{"messages": [{"role": "wizard", "content": "x"}]}\n', *lines[6:]]))
    with listening(place.cluster, place.folder) as listener:
        change_site(place, webhook=listener.url)
        run = place.submit()
        place.failed(run)
        eventually(lambda: listener.heard() != [])
    told = listener.heard()[-1]
    assert (told["run_id"], told["state"], told["stage"]) == (run, "failed", "data")
    assert "line 7" in told["diagnosis"]
    stage = place.stage(run, "data")
    assert "line 7" in stage["diagnosis"]
    assert len(place.objects("pods", run, "data")) == 1
    assert place.objects("jobs", run, "train") == []
    waited = place.halops(*place.submit_words("--wait"), check=False)
    assert waited.returncode == 42
    assert "line 7" in waited.stderr


def test_a_flipped_bit_ends_the_next_stage(place: Place) -> None:
    run = place.submit(training__max_steps=3)
    place.done(run, "train")
    entry = next(item for item in place.manifest(run, "train")["files"] if item["path"].endswith("model.safetensors"))
    assert place.cluster.store
    path = place.cluster.store.path(f"{place.namespace}/{entry['key']}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    for stage in ("merge", "convert", "verify"):
        place.key(run, stage, "manifest.json").unlink(missing_ok=True)
    resumed = place.halops("resume", run, "--wait", check=False)
    assert resumed.returncode == 43
    assert not place.key(run, "merge", "manifest.json").exists()
    assert place.objects("jobs", run, "convert") == []


def test_a_wrong_key_is_said_plainly(place: Place) -> None:
    assert place.cluster.store
    put_secret(place, place.cluster.store.keys | {"AWS_SECRET_ACCESS_KEY": "not-it"})
    looked = place.halops("doctor", f"--profile={TINY}", f"--set=model.uri={place.model}", check=False)
    assert looked.returncode == 5
    assert "halops-s3 doesn't open the store: the secret key doesn't fit the access key" in looked.stdout
    run = place.submit(training__max_steps=3)
    status = place.until(run, lambda status: any(item["diagnosis"] for item in status["stages"]), 120)
    text = " ".join(item["diagnosis"] or "" for item in status["stages"]).lower()
    assert "refuse" in text or "credential" in text or "signature" in text
    assert "halops-s3" in text or "secret" in text
    put_secret(place, place.cluster.store.keys)  # and it goes on by itself
    place.done(run, "data")


def test_a_way_to_the_store_that_is_closed_is_said_before_anything_runs(place: Place) -> None:
    words = ("doctor", f"--profile={TINY}", f"--set=model.uri={place.model}")
    assert "every stage may reach" in place.halops(*words, check=False).stdout
    place.kubectl("delete", "networkpolicy", "halops-store")
    looked = place.halops(*words, check=False).stdout
    assert "they keep coordinator, base, data, train, merge, convert, verify from" in looked
    assert "k8s/components/store-external, or store-cidr" in " ".join(looked.split())
    done = place.halops(*place.submit_words())
    assert "network policies: they keep coordinator, base, data" in " ".join(done.stderr.split())
    place.halops("cancel", done.stdout.strip())


def test_a_gpu_that_is_too_small_is_explained_before_anything_runs_on_one(place: Place) -> None:
    done = place.halops(*place.submit_words(cluster__gpu__memory_gib=40))
    assert "train will wait" in done.stderr
    run = done.stdout.strip()
    status = place.until(run, lambda status: status["stages"][2]["diagnosis"])
    train = status["stages"][2]
    assert "GPU" in train["diagnosis"]
    assert "nvidia.com/gpu.memory" in train["diagnosis"] or "GiB" in train["diagnosis"]
    assert [pod["status"]["phase"] for pod in place.objects("pods", run, "train")] == ["Pending"]
    place.halops("cancel", run)


@pytest.mark.usefixtures("own_cluster")
def test_the_shipped_profile_is_judged_by_the_server_and_says_what_the_nodes_lack(place: Place) -> None:
    judged = place.halops("submit", "--profile", "a100", "--dry-run")
    assert "would accept all of it" in judged.stderr
    done = place.halops("submit", "--profile", "a100")
    assert "train will wait: node2 has a GPU of 8.0 GiB, 40.0 GiB asked" in done.stderr
    run = done.stdout.strip()
    assert place.objects("jobs", run, "train") == []
    place.halops("cancel", run)
    ready = place.halops("doctor", "--profile", "a100", check=False)
    assert ready.returncode == 5
    assert "GPU node" in ready.stderr


def test_quota_is_judged_before_anything_is_made(place: Place) -> None:
    done = place.halops(*place.submit_words(cluster__gpu__count=4), check=False)
    assert done.returncode == 42
    assert "quota" in done.stderr
    assert place.kubectl("get", "configmaps", "-l", "halops.dev/run-id", "-o", "name") == ""


def test_an_image_that_is_not_there_is_explained(place: Place) -> None:
    use_image(place, "merge", f"127.0.0.1:5999/none/halops-merge@sha256:{'0' * 64}")
    run = place.submit(training__max_steps=3)
    status = place.until(run, lambda status: any(item["diagnosis"] for item in status["stages"]))
    text = " ".join(item["diagnosis"] or "" for item in status["stages"])
    assert "image" in text
    place.halops("cancel", run)


def test_cuda_out_of_memory_goes_one_rung_down(place: Place, own_cluster: Cluster) -> None:
    use_image(place, "train", with_environment("train", "HALOPS_TEST_FAULT=cuda_oom:0"))
    run = place.submit(training__max_steps=4)
    place.done(run, "train")
    made = attempts(place, run)
    assert [(item["attempt"], item["rung"]) for item in made] == [(1, 0), (2, 1)]
    assert made[0]["exit_code"] == 44
    assert place.manifest(run, "train")["metrics"]["oom_rung"] == 1


def test_training_killed_for_memory_goes_down_and_ends_with_what_it_needs(place: Place) -> None:
    run = place.submit("--set=cluster.resources.train.memory=450Mi", training__max_steps=4)
    place.failed(run, 240)
    made = attempts(place, run)
    assert [item["rung"] for item in made] == list(range(len(made)))
    assert len(made) > 1
    assert {item["reason"] for item in made} == {"OOMKilled"}
    jobs = place.objects("jobs", run, "train")
    environments = [job["spec"]["template"]["spec"]["containers"][0]["env"] for job in jobs]
    told = [{"name": "HALOPS_OOM_KILLED", "value": "1"} in environment for environment in environments]
    assert told == [False] + [True] * (len(made) - 1)
    assert "memory" in place.stage(run, "train")["diagnosis"]


@pytest.mark.usefixtures("own_cluster")
def test_a_stage_that_dies_again_and_again_ends_the_run_and_resume_goes_on(place: Place) -> None:
    run = place.submit(training__max_steps=60)
    for number in range(1, 5):
        eventually(lambda number=number: place.running_attempt(run, "train") == number, 120)
        kill_process(place, run, "train")
    place.failed(run)
    assert "halops resume" in place.stage(run, "train")["diagnosis"]
    assert [item["rung"] for item in attempts(place, run)] == 4 * [0]
    place.halops("resume", run)
    eventually(lambda: len(attempts(place, run)) == 5)  # told as soon as its Job is there
    place.training(run)
    place.halops("cancel", run)


def use_image(place: Place, name: str, reference: str) -> None:
    """Lock another image in the site."""
    change_site(place, images=place.cluster.images | {name: reference})


def change_site(place: Place, **settings: object) -> None:
    """Change settings of the folder's halops.yaml."""
    path = place.folder / "halops.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))


def with_environment(name: str, assignment: str) -> str:
    """The test image with one more variable, on the GPU node."""
    base, made = f"localhost/halops-{name}:test", f"localhost/halops-{name}:{assignment.partition('=')[0].lower()}"
    container = _run("buildah", "from", base).strip()
    try:
        _run("buildah", "config", "--env", assignment, container)
        _run("buildah", "commit", "--quiet", container, made)
    finally:
        _run("buildah", "rm", container)
    return _run(sys.executable, "-m", "tools.cluster", "load", made, "2").strip().splitlines()[-1]


def _run(*words: str) -> str:
    root: Path = Path(__file__).parents[2]
    done: Any = subprocess.run(words, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, json.dumps([words, done.stdout, done.stderr])
    return str(done.stdout)

"""From a run to an answer in the cluster: deploy, chat, canary, compare, promote, roll back, trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.cluster.deploying import ready_to_serve
from tests.cluster.handle import ROOT
from tests.cluster.place import Place
from tests.cluster.serving import CLIENT, KEY, Serving, question, until
from tests.helm import tool

pytestmark = [pytest.mark.slow, pytest.mark.measured, pytest.mark.usefixtures("own_cluster")]


@pytest.fixture
def ops(
    finished: tuple[Place, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, Serving]]:
    """A user's folder with a finished run, and a namespace to serve in."""
    monkeypatch.setenv("PATH", f"{Path(tool()).parent}:{os.environ['PATH']}")
    with ready_to_serve(finished[0], tmp_path) as serving:
        yield finished[0], serving


def test_from_a_run_to_answers_and_from_one_model_to_the_next(
    finished: tuple[Place, str], ops: tuple[Place, Serving], tmp_path: Path
) -> None:
    (place, serving), first = ops, finished[1]
    second = place.submit(training__max_steps=3)  # which comes to its end meanwhile
    assert place.halops("deploy", first, "--cpu", "--wait").stdout.strip() == f"http://ops.{serving.namespace}.svc/v1"
    serving.client("caller", **CLIENT)
    assert " 200 OK" in serving.ask("caller", f"ops.{serving.namespace}.svc", question())
    assert place.halops("chat", first, "-m", "ping", "--max-tokens", "4").stdout.strip()
    traced = place.halops("trace", f"pod/{serving.pod('ops')}").stdout
    assert "train.jsonl" in traced
    assert place.manifest(first, "convert")["files"]

    place.succeeded(second)
    place.halops("deploy", second, "--cpu", "--canary", "--wait")
    compared = json.loads(place.halops("compare", "--heldout", "1", "--max-tokens", "8", "--json").stdout)
    assert set(compared["models"]) == {"ops", "ops-canary"}
    assert len(compared["questions"]) == 4  # three probes, one held-out question

    with asking(serving, tmp_path) as asked:
        assert second in place.halops("promote").stdout
        assert run_behind(serving) == second
        assert first in place.halops("rollback").stdout
        assert run_behind(serving) == first
        place.halops("deploy", first, "--cpu", "--wait", "--set", "podAnnotations.again=yes")  # a rolling upgrade
        serving.kubectl("delete", "pod", serving.pod("ops"))
        until(lambda: asked()[0] >= 1000, 180)
    good, bad = asked()
    assert bad == [], place.cluster.kubectl("-n", serving.namespace, "get", "events", "--sort-by=.lastTimestamp")
    assert good >= 1000
    assert serving.pods("ops-canary") == []


@contextmanager
def asking(serving: Serving, folder: Path) -> Iterator[Callable[[], tuple[int, list[str]]]]:
    """Sixteen clients ask `ops` all the while. Gives how many answers came so far, and what came instead."""
    address = serving.kubectl("get", "service", "ops", "-o", "jsonpath={.spec.clusterIP}")
    words = [*serving.cluster.prefix, sys.executable, "-m", "tests.cluster.asking", address, KEY, str(folder)]
    with subprocess.Popen(words, cwd=ROOT) as process:
        try:
            until(lambda: (folder / "asked").exists())
            yield lambda: json.loads((folder / "asked").read_text())
        finally:
            (folder / "stop").touch()
            process.wait(150)


def test_a_run_is_served_before_it_is_merged(finished: tuple[Place, str], ops: tuple[Place, Serving]) -> None:
    (place, serving), verified = ops, finished[1]
    run = place.submit("--set=cluster.resources.merge.cpu=64000m")  # no node has as many: its merge waits for ever
    deployed = place.halops("deploy", run, "--fast", "--cpu", "--wait")
    assert "not verified" in deployed.stderr
    assert place.stage(run, "merge")["state"] in ("pending", "running")
    serving.client("caller", **CLIENT)
    assert " 200 OK" in serving.ask("caller", f"ops.{serving.namespace}.svc", question())
    adapter = place.manifest(run, "adapter-gguf")["files"][0]
    traced = place.halops("trace", f"pod/{serving.pod('ops')}")
    assert adapter["sha256"][:16] in traced.stdout
    assert "not verified" in traced.stderr
    assert serving.pods("ops")[-1]["metadata"]["annotations"]["halops.dev/adapter-gguf-sha256"] == adapter["sha256"]
    again = place.halops("values", run, "--fast", "--cpu")
    assert again.stderr.count("done before") == 2
    place.halops("deploy", verified, "--cpu", "--wait")
    assert run_behind(serving) == verified
    assert "adapter" not in yaml.safe_load(serving.helm("get", "values", "ops"))
    place.halops("cancel", run)


def test_a_server_makes_room_for_a_training_and_comes_back(
    finished: tuple[Place, str], ops: tuple[Place, Serving]
) -> None:
    (place, serving), first = ops, finished[1]
    refused = place.halops(*place.submit_words("--free-gpu"), check=False)
    assert refused.returncode == 42
    assert "doesn't let runs" in refused.stderr
    place.halops("deploy", first, "--cpu", "--wait")
    for number, ending in enumerate((killed_and_done, cancelled, root_deleted)):
        run = place.submit("--free-gpu", "--new", training__max_steps=40 + number)
        place.training(run)
        assert replicas(serving) == 0
        ending(place, run)
        until(lambda: replicas(serving) == 1, 60)
    place.halops("deploy", first, "--cpu", "--wait")  # helm finds nothing that isn't its own
    serving.client("caller", **CLIENT)
    assert " 200 OK" in serving.ask("caller", f"ops.{serving.namespace}.svc", question())


def replicas(serving: Serving) -> int:
    """How many the release's Deployment is asked to have."""
    return int(serving.kubectl("get", "deployment", "ops", "-o", "jsonpath={.spec.replicas}"))


def killed_and_done(place: Place, run: str) -> None:
    """The coordinator dies in the midst; another one gives back at the end of the training."""
    place.kubectl("delete", "pod", place.pod(run, "coordinator"), "--force", "--grace-period=0")
    place.until(run, lambda status: status["stages"][2]["state"] == "succeeded")


def cancelled(place: Place, run: str) -> None:
    """By the command."""
    place.halops("cancel", run)


def root_deleted(place: Place, run: str) -> None:
    """By hand: with the root goes all that knew of it."""
    place.kubectl("delete", "configmap", f"halops-{run}")


def run_behind(serving: Serving) -> str:
    """The run that the newest pod of the release serves."""
    return str(serving.pods("ops")[-1]["metadata"]["annotations"]["halops.dev/run-id"])


def test_a_run_that_failed_verification_is_not_deployed(ops: tuple[Place, Serving]) -> None:
    place, _ = ops
    run = place.submit("--new", "--set=verify.max_stop_failures=0", training__max_steps=3)
    place.failed(run)
    assert len(place.objects("pods", run, "verify")) == 1  # the same files wouldn't pass the next time
    refused = place.halops("deploy", run, "--cpu", check=False)
    assert refused.returncode == 7
    assert "stops" in refused.stderr
    assert "--force" in refused.stderr
    shown = place.halops("values", run, "--cpu", "--force").stdout
    assert yaml.safe_load(shown)["provenance"]["verified"] == "no"

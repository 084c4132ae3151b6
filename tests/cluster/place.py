"""Where tests submit from: a namespace as k8s/ makes it, the S3 Secret, a folder with halops.yaml, a tiny model."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.handle import ROOT, TESTS_LABEL, Cluster

TINY = ROOT / "tests" / "cluster" / "tiny.yaml"
SECRET = "halops-s3"
DONE = ("succeeded", "failed", "cancelled")


@dataclass
class Place:
    """One namespace with its own prefix in the store, and a folder of a user's. `settings` go into each submit."""

    cluster: Cluster
    namespace: str
    folder: Path
    model: str
    settings: tuple[str, ...] = ()

    def halops(self, *words: str, check: bool = True, timeout: float | None = 600) -> Any:
        """The installed command, in the user's folder."""
        return self.cluster.halops(*words, cwd=self.folder, check=check, timeout=timeout)

    def json(self, *words: str) -> Any:
        """The command's JSON."""
        return json.loads(self.halops(*words, "--json").stdout)

    def submit_words(self, *words: str, **overrides: object) -> list[str]:
        """`submit` of the tiny profile; `training__max_steps=6` sets training.max_steps."""
        sets = [f"--set={name.replace('__', '.')}={value}" for name, value in overrides.items()]
        return ["submit", f"--profile={TINY}", f"--set=model.uri={self.model}", *self.settings, *sets, *words]

    def submit(self, *words: str, **overrides: object) -> str:
        """Submit, and return the run's id."""
        return str(self.halops(*self.submit_words(*words, **overrides)).stdout.strip())

    def status(self, run: str) -> Any:
        """`status --json`."""
        return self.json("status", run)

    def stage(self, run: str, stage: str) -> Any:
        """One stage of it."""
        return stage_of(self.status(run), stage)

    def until(self, run: str, test: Callable[[Any], bool], seconds: float = 300) -> Any:
        """Wait until the status passes a test; fail with all there is to know if it is over, or never does."""
        deadline = time.monotonic() + seconds
        while True:
            status: Any = {}
            for status in self.watch(run, deadline):
                if test(status):
                    return status
            if status.get("state") in DONE or time.monotonic() > deadline:
                pytest.fail(f"{json.dumps(status, indent=1)}\n{self.evidence(run)}", pytrace=False)
            time.sleep(0.5)  # nothing works on it yet

    def watch(self, run: str, deadline: float) -> Iterator[Any]:
        """`status -w --json`, ended at the deadline."""
        words = [*self.cluster.prefix, *self.cluster.halops_words(), "status", run, "-w", "--json"]
        with subprocess.Popen(
            words, cwd=self.folder, env=self.cluster.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            timer = threading.Timer(max(0.0, deadline - time.monotonic()), process.kill)
            timer.start()
            try:
                assert process.stdout
                yield from map(json.loads, process.stdout)
            finally:
                timer.cancel()
                process.kill()

    def succeeded(self, run: str, seconds: float = 300) -> Any:
        """Wait for success."""
        return self.until(run, lambda status: status["state"] == "succeeded", seconds)

    def reached(self, run: str, stage: str, seconds: float = 300) -> Any:
        """Wait until one stage has succeeded. The stage."""
        return stage_of(self.until(run, lambda status: stage_of(status, stage)["state"] == "succeeded", seconds), stage)

    def done(self, run: str, stage: str) -> Any:
        """Wait until one stage has succeeded, then stop the run: what comes after it is for other tests. The stage."""
        found = self.reached(run, stage)
        self.halops("cancel", run)
        return found

    def failed(self, run: str, seconds: float = 180) -> Any:
        """Wait for failure."""
        return self.until(run, lambda status: status["state"] == "failed", seconds)

    def training(self, run: str, step: int = 0, seconds: float = 180) -> None:
        """Wait until training has stored a checkpoint of that step or a later one; any training at all for 0."""

        deadline = time.monotonic() + seconds
        self.until(run, lambda status: stage_of(status, "train")["state"] == "running", seconds)
        while self.newest_checkpoint(run) < step:
            if time.monotonic() > deadline:
                pytest.fail(f"no checkpoint of step {step}\n{self.evidence(run)}", pytrace=False)
            time.sleep(0.1)

    def newest_checkpoint(self, run: str) -> int:
        """The step of the newest whole checkpoint, read from the store by its own keys."""
        folder = self.key(run, "train", "checkpoints")
        found = [int(path.parent.name) for path in folder.glob("*/manifest.json")] if folder.exists() else []
        return max(found, default=0)

    def key(self, run: str, *parts: str) -> Path:
        """Where the store keeps something of a run, as a file."""
        assert self.cluster.store
        return self.cluster.store.path("/".join([self.namespace, "runs", run, *parts]))

    def manifest(self, run: str, stage: str) -> Any:
        """A stage's manifest, read from the store itself."""
        return json.loads(self.key(run, stage, "manifest.json").read_text())

    def objects(self, kind: str, run: str, stage: str | None = None) -> list[Any]:
        """Objects of a run, oldest first."""
        labels = f"halops.dev/run-id={run}" + (f",halops.dev/stage={stage}" if stage else "")
        text = self.kubectl("get", kind, "-l", labels, "-o", "json", "--sort-by=.metadata.creationTimestamp")
        return list(json.loads(text)["items"])

    def pod(self, run: str, stage: str, phase: str = "Running", seconds: float = 120) -> str:
        """The name of a stage's pod in that phase, once there is one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pod in self.objects("pods", run, stage):
                if pod["status"].get("phase") == phase and "deletionTimestamp" not in pod["metadata"]:
                    return str(pod["metadata"]["name"])
            time.sleep(0.3)
        pytest.fail(f"no {phase} pod of {stage}\n{self.evidence(run)}", pytrace=False)

    def running_attempt(self, run: str, stage: str) -> int:
        """The attempt whose pod runs now; 0 if none does."""
        running = [pod for pod in self.objects("pods", run, stage) if pod["status"].get("phase") == "Running"]
        return int(running[-1]["metadata"]["labels"]["halops.dev/attempt"]) if running else 0

    def kubectl(self, *words: str, check: bool = True, text: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.cluster.kubectl("-n", self.namespace, *words, check=check, text=text)

    def evidence(self, run: str) -> str:
        """What a person would look at."""
        parts = [
            self.kubectl("get", "pods,jobs", "-o", "wide", check=False),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-3000:],
        ]
        for pod in self.kubectl("get", "pods", "-o", "name", check=False).split():
            parts.append(f"--- {pod}\n{self.kubectl('logs', '--tail=15', pod, check=False)}")
        return "\n".join(parts)


def stage_of(status: Any, stage: str) -> Any:
    """One stage in `status --json`."""
    return next(item for item in status["stages"] if item["name"] == stage)


def make_place(cluster: Cluster, folder: Path, model: str, settings: tuple[str, ...] = (), *, gpus: int = 2) -> Place:
    """A fresh namespace and folder. Skips where the project's images or a store are missing."""
    if not cluster.store or {"train", "merge", "convert"} - set(cluster.images):
        pytest.skip("needs the project's images (tools/test-images.sh) and a store")
    namespace = f"ops-{uuid.uuid4().hex[:8]}"
    place = Place(cluster, namespace, folder, model, settings)
    cluster.kubectl("apply", "-f", "-", text=_overlay(cluster, namespace, folder, gpus))
    cluster.kubectl("label", "namespace", namespace, TESTS_LABEL)
    put_secret(place, cluster.store.keys)
    _write_site(place)
    return place


def put_secret(place: Place, keys: dict[str, str]) -> None:
    """The S3 Secret, made or replaced."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys}
    place.kubectl("apply", "-f", "-", text=json.dumps(secret))


def _overlay(cluster: Cluster, namespace: str, folder: Path, gpus: int) -> str:
    """k8s/base with this store's address, under this namespace's name."""
    assert cluster.store
    address, _, port = cluster.store.endpoint.partition("://")[2].partition(":")
    store = [
        {"op": "replace", "path": "/spec/egress/0/to/0/ipBlock/cidr", "value": f"{address}/32"},
        {"op": "replace", "path": "/spec/egress/0/ports/0/port", "value": int(port)},
    ]
    quota = [{"op": "replace", "path": "/spec/hard/requests.nvidia.com~1gpu", "value": str(gpus)}]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": ["base"],
        "components": ["components/store-cidr"],
        "patches": [
            {"target": {"kind": "NetworkPolicy", "name": "halops-store"}, "patch": json.dumps(store)},
            {"target": {"kind": "ResourceQuota", "name": "halops"}, "patch": json.dumps(quota)},
        ],
    }
    tree = folder / "k8s"
    tree.mkdir()
    for name in ("base", "components"):
        (tree / name).symlink_to(ROOT / "k8s" / name)
    (tree / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return cluster.kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(tree))


def _write_site(place: Place) -> None:
    store = place.cluster.store
    assert store
    place.halops(
        "init", f"--store=s3://{store.bucket}/{place.namespace}", f"--s3-endpoint={store.endpoint}",
        f"--s3-region={store.region}", f"--s3-secret={SECRET}", f"--namespace={place.namespace}", "--force",
    )  # fmt: skip
    path = place.folder / "halops.yaml"
    settings = yaml.safe_load(path.read_text()) | {"images": place.cluster.images}
    path.write_text(yaml.safe_dump(settings))
    data = place.folder / "data" / "final"
    data.mkdir(parents=True)
    for name, count in (("train.jsonl", 60), ("probes.jsonl", 3)):
        lines = (ROOT / "data" / "final" / name).read_text().splitlines(keepends=True)
        (data / name).write_text("".join(lines[:count]))

"""Training on several nodes: an Indexed Job of two pods that find each other by name."""

from __future__ import annotations

import json

import pytest

from tests.cluster.place import Place
from tests.cluster.pods import eventually

pytestmark = pytest.mark.slow


def history(place: Place, run: str) -> list[float]:
    """The losses by step, from the manifest's own file."""
    entry = next(item for item in place.manifest(run, "train")["files"] if item["path"].startswith("history"))
    assert place.cluster.store
    path = place.cluster.store.path(f"{place.namespace}/{entry['key']}")
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def test_two_pods_train_as_one(place: Place, finished: tuple[Place, str]) -> None:
    whole, other = finished
    run = place.submit(cluster__nodes=2)
    place.reached(run, "train")
    eventually(lambda: place.objects("jobs", run, "train")[0]["status"].get("succeeded") == 2)
    job = place.objects("jobs", run, "train")[0]
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)
    place.halops("cancel", run)
    together, alone = history(place, run), history(whole, other)
    assert together == pytest.approx(alone, rel=1e-4)

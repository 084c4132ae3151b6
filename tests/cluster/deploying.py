"""A folder with a run, and a namespace to serve it in, as `halops deploy` needs them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.cluster.handle import TESTS_LABEL
from tests.cluster.place import SECRET, Place
from tests.cluster.pods import ON_CPU_NODE
from tests.cluster.serving import CLIENT, KEY, KEYS_SECRET, NODES, Serving, put_secret

VALUES = {
    "networkPolicy": {"callers": [{"podSelector": {"matchLabels": CLIENT}}, NODES]},
    "cache": {"size": "1Gi"},
    "nodeSelector": ON_CPU_NODE["nodeSelector"],
    "drain": {"settleSeconds": 10, "timeoutSeconds": 60},  # the successor is ready by then, on a busy machine too
    "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    "server": {"parallel": 2, "threads": 2},
    "fetch": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
}


@contextmanager
def ready_to_serve(place: Place, folder: Path) -> Iterator[Serving]:
    """A namespace under `restricted` with the Secrets, and the site's settings for it; both gone afterwards."""
    namespace = f"serve-{uuid.uuid4().hex[:8]}"
    cluster = place.cluster
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", TESTS_LABEL)
    serving = Serving(cluster, namespace, folder, {})
    assert cluster.store
    put_secret(serving, SECRET, cluster.store.keys)
    put_secret(serving, KEYS_SECRET, {"api-keys": f"{KEY}\n"})
    site = place.folder / "halops.yaml"
    before = site.read_text()
    where = {"name": "ops", "namespace": namespace, "secret": KEYS_SECRET, "values": "serving.yaml"}
    site.write_text(yaml.safe_dump(yaml.safe_load(before) | {"serving": where}))
    (place.folder / "serving.yaml").write_text(yaml.safe_dump(VALUES))
    yield serving
    site.write_text(before)
    serving.uninstall("ops", "ops-canary")
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")

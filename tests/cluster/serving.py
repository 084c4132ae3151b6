"""Where tests serve from: a namespace under `restricted`, the Secrets, a small model in the store, helm."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from halops.serving.describe import describe
from tests.cluster.handle import TESTS_LABEL, Cluster
from tests.cluster.pods import ON_CPU_NODE, busybox, start
from tests.helm import CHART, merged, tool

KEY = "sk-tests-0123456789"
S3_SECRET, KEYS_SECRET = "halops-s3", "ops-keys"
CLIENT = {"halops.dev/client": "true"}
NODES = {"ipBlock": {"cidr": "10.77.0.0/24"}}  # where a test itself asks from


@dataclass
class Serving:
    """A namespace to install releases in."""

    cluster: Cluster
    namespace: str
    folder: Path
    model: dict[str, Any]  # the chart's `model`

    def values(self, **more: Any) -> dict[str, Any]:
        """Values for a CPU node of the test cluster, with `more` on top."""
        assert self.cluster.store
        address, _, port = self.cluster.store.endpoint.partition("://")[2].partition(":")
        store = {"to": [{"ipBlock": {"cidr": f"{address}/32"}}], "ports": [{"protocol": "TCP", "port": int(port)}]}
        plain: dict[str, Any] = {
            "image": self.cluster.images["serve"],
            "model": self.model,
            "fetch": {
                "image": self.cluster.images["merge"], "s3Secret": S3_SECRET, "s3Region": self.cluster.store.region,
                "s3Endpoint": self.cluster.store.endpoint, "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            },
            "server": {"ctxSize": 4096, "parallel": 2, "threads": 2, "chatTemplate": "model"},
            "gpu": {"count": 0},
            "auth": {"secret": KEYS_SECRET},
            "cache": {"size": "1Gi"},
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
            "nodeSelector": ON_CPU_NODE["nodeSelector"],
            "drain": {"settleSeconds": 2, "timeoutSeconds": 120},
            "networkPolicy": {"egress": [store]},
        }  # fmt: skip
        return merged(plain, more)

    def helm(self, *words: str, check: bool = True, timeout: float = 300) -> str:
        """helm in this namespace: what it said."""
        done = self.cluster.run([tool(), "-n", self.namespace, *words], check=check, timeout=timeout)
        return done.stdout + done.stderr

    def install(self, release: str, *words: str, chart: Path = CHART, wait: bool = True, **values: Any) -> str:
        """`helm upgrade --install`; waits until the pods are ready, unless told not to."""
        path = self.folder / f"{release}.yaml"
        path.write_text(yaml.safe_dump(self.values(**values)))
        waiting = ["--wait", "--timeout", "240s"] if wait else []
        return self.helm("upgrade", "--install", release, str(chart), "--values", str(path), *waiting, *words)

    def uninstall(self, *releases: str) -> None:
        """Take releases away, and their pods at once."""
        self.helm("uninstall", *releases, check=False)
        self.kubectl("delete", "pods", "--all", "--force", "--grace-period=0", check=False)

    def kubectl(self, *words: str, check: bool = True, text: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.cluster.kubectl("-n", self.namespace, *words, check=check, text=text)

    def pods(self, release: str) -> list[dict[str, Any]]:
        """A release's server pods that aren't going, oldest first."""
        chosen = f"app.kubernetes.io/instance={release},app.kubernetes.io/component=server"
        text = self.kubectl("get", "pods", "-l", chosen, "-o", "json", "--sort-by=.metadata.creationTimestamp")
        return [pod for pod in json.loads(text)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, release: str) -> str:
        """The newest one's name."""
        return str(self.pods(release)[-1]["metadata"]["name"])

    def ready(self, release: str, seconds: int = 180) -> str:
        """Wait for a rollout; the newest pod's name."""
        self.kubectl("rollout", "status", f"deployment/{release}", f"--timeout={seconds}s")
        return self.pod(release)

    def client(self, name: str, **labels: str) -> None:
        """A pod that can call, or can't."""
        pod = busybox(self.cluster, name, labels={"app": name, **labels}, **ON_CPU_NODE)
        pod["spec"]["containers"][0]["image"] = self.cluster.images["serve"]  # has bash, which speaks TCP
        start(self.cluster, self.namespace, pod)

    def ask_words(self, client: str, host: str, body: dict[str, Any], key: str = KEY, seconds: int = 120) -> list[str]:
        """kubectl's words for a chat request from a client's pod. It prints the answer, headers and all."""
        text = json.dumps(body)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        # Both ways of the connection stay open: llama-server takes a client that has closed one for gone.
        script = f'exec 3<>"/dev/tcp/{host}/80" && printf %s "$1" >&3 && cat <&3'
        return ["exec", client, "--", "timeout", str(seconds), "bash", "-c", script, "ask", head + text]

    def ask(self, client: str, host: str, body: dict[str, Any], *, key: str = KEY, seconds: int = 120) -> str:
        """The answer to a chat request from a client's pod; empty where nobody could be reached."""
        return self.kubectl(*self.ask_words(client, host, body, key, seconds), check=False)


def question(tokens: int = 8, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"messages": [{"role": "user", "content": "ping"}], "max_tokens": tokens, **more}


@contextmanager
def serving(cluster: Cluster, folder: Path, gguf: Path) -> Iterator[Serving]:
    """A namespace with all that a release needs; gone afterwards. Skips without images or a store."""
    if not cluster.store or {"merge", "serve"} - set(cluster.images):
        pytest.skip("needs the project's images (tools/test-images.sh) and a store")
    namespace = f"serve-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", TESTS_LABEL)
    model = describe(gguf) | {"url": f"s3://{cluster.store.bucket}/{namespace}/model.gguf", "alias": "tiny"}
    put_object(cluster, gguf, f"{namespace}/model.gguf")
    made = Serving(cluster, namespace, folder, model)
    put_secret(made, S3_SECRET, cluster.store.keys)
    put_secret(made, KEYS_SECRET, {"api-keys": f"# of the tests\n{KEY}\n"})
    yield made
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "pv", "-l", f"halops.dev/tests={namespace}", "--wait=false")


def put_object(cluster: Cluster, path: Path, key: str) -> None:
    """A file into the store."""
    assert cluster.store
    code = (
        "import os, sys, boto3; from botocore.config import Config; path, bucket, key = sys.argv[1:]; "
        "boto3.client('s3', config=Config(s3={'addressing_style': 'path'})).upload_file(path, bucket, key)"
    )
    cluster.python(code, str(path), cluster.store.bucket, key)


def put_secret(made: Serving, name: str, keys: dict[str, str]) -> None:
    """A Secret."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys}
    made.kubectl("apply", "-f", "-", text=json.dumps(secret))


def local_claim(made: Serving, name: str) -> None:
    """A claim on a folder of the CPU node, as a node-local StorageClass would make it."""
    path = made.folder / name
    path.mkdir()
    meta = {"name": f"{made.namespace}-{name}", "labels": {"halops.dev/tests": made.namespace}}
    node = {"key": "halops.dev/test-node", "operator": "In", "values": ["cpu"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [node]}]}
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeMode": "Filesystem"}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": common | {
        "capacity": {"storage": "1Gi"}, "local": {"path": str(path)}, "nodeAffinity": {"required": terms},
        "persistentVolumeReclaimPolicy": "Retain",
    }}  # fmt: skip
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": common | {
        "resources": {"requests": {"storage": "1Gi"}}, "volumeName": meta["name"],
    }}  # fmt: skip
    for item in (volume, claim):
        made.kubectl("apply", "-f", "-", text=json.dumps(item))


def until(test: Any, seconds: float = 120) -> Any:
    """Wait for something that is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := test()):
        assert time.monotonic() < deadline, f"not so after {seconds:.0f} s"
        time.sleep(0.5)
    return found

"""What a test holds of a cluster: the project's own, or another that HALOPS_TEST_KUBECONFIG names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HALOPS = Path(sys.executable).parent / "halops"
TESTS_LABEL = "halops.dev/made-by=tests"  # of each namespace that a test made


@dataclass(frozen=True)
class Store:
    """An S3 store as the cluster's pods see it."""

    endpoint: str
    region: str
    bucket: str
    keys: dict[str, str] = field(repr=False)  # AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
    data: Path | None = None  # of our own: buckets are folders in it, objects files

    @property
    def environment(self) -> dict[str, str]:
        """What AWS' libraries read."""
        return {**self.keys, "AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_REGION": self.region}

    def path(self, key: str) -> Path:
        """The file that holds an object; skips where the store isn't ours."""
        if self.data is None:
            pytest.skip("looks into the store's folder, and this store isn't ours")
        return self.data / self.bucket / key

    def client(self) -> Any:
        """A boto3 client of the test's own. It must run where the store can be reached: see Cluster.python."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.keys["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
        )


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs. Commands fail the test with what they said, unless `check` is False."""

    kubeconfig: Path
    store: Store | None
    images: dict[str, str]  # train, merge, convert, serve -> NAME@sha256:DIGEST, those that are built
    busybox: str
    prefix: tuple[str, ...] = ()  # words before a command, so that it runs where the API server and the store are
    kubectl_path: str = "kubectl"
    logs: Path | None = None

    @property
    def own(self) -> bool:
        """Whether it is the project's own: then its processes can be killed."""
        return bool(self.prefix)

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment for commands that talk to the cluster and its store."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | {"KUBECONFIG": str(self.kubeconfig)} | (self.store.environment if self.store else {})

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """kubectl's output; `text` is its standard input."""
        cache = f"--cache-dir={self.kubeconfig.parent}/kubectl-cache" if self.own else "--cache-dir="
        return self.run([self.kubectl_path, cache, *arguments], text=text, check=check).stdout

    def halops(
        self, *arguments: str, cwd: Path | None = None, check: bool = True, timeout: float | None = 600
    ) -> subprocess.CompletedProcess[str]:
        """The installed command, as a user runs it."""
        return self.run([*self.halops_words(), *arguments], cwd=cwd, check=check, timeout=timeout)

    def halops_words(self) -> list[str]:
        """Its first words, for a test that starts it by itself: `[*cluster.prefix, *cluster.halops_words(), ...]`."""
        return [str(HALOPS)]

    def run(
        self,
        words: list[str],
        *,
        text: str | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout: float | None = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Any command, where the API server and the store can be reached."""
        done = subprocess.run(
            [*self.prefix, *words],
            input=text,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done

    def python(self, code: str, *arguments: str) -> str:
        """The output of some Python that needs the cluster's network; boto3 finds the store in its environment."""
        return self.run([sys.executable, "-c", code, *arguments]).stdout

    def control(self, component: str, action: str) -> None:
        """`start`, `stop`, `kill` or `restart` a component: etcd, apiserver, kubelet2, ...; see tools/cluster."""
        self.tool(action, component)

    def node(self, number: int, action: str) -> None:
        """`lose`, bring `back`, `drain` or `uncordon` a node."""
        self.tool(action, str(number))

    def load(self, image: str, *nodes: int) -> str:
        """Give nodes an image of buildah's store. Returns NAME@DIGEST."""
        return self.tool("load", image, *map(str, nodes)).strip()

    def tool(self, *arguments: str) -> str:
        """A command of tools/cluster; skips where the cluster isn't ours."""
        if not self.own:
            pytest.skip("needs the project's own cluster, whose processes it may touch")
        words = [sys.executable, "-m", "tools.cluster", *arguments]
        environment = os.environ | {"HALOPS_TEST_CLUSTER": str(self.kubeconfig.parents[1])}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{' '.join(arguments)}: {done.stderr}", pytrace=False)
        return done.stdout


def from_description(description: dict[str, Any]) -> Cluster:
    """The project's own, from its cluster.json."""
    store = dict(description["s3"])
    store["keys"] = json.loads(Path(store["keys"]).read_text())
    return Cluster(
        kubeconfig=Path(description["kubeconfig"]),
        store=Store(**store | {"data": Path(store["data"])}),
        images=description["images"],
        busybox=description["busybox"],
        prefix=("nsenter", f"--net={description['network_namespace']}"),
        kubectl_path=description["kubectl"],
        logs=Path(description["logs"]),
    )


def other_cluster(kubeconfig: str, environment: dict[str, str]) -> Cluster:
    """Another, with what HALOPS_TEST_IMAGES and HALOPS_TEST_STORE (JSON both) say of it.

    HALOPS_TEST_IMAGES maps train, merge, convert, serve and busybox to references that its nodes can pull.
    HALOPS_TEST_STORE has endpoint, region, bucket, and the keys' names and values under `keys`.
    """
    images = json.loads(environment.get("HALOPS_TEST_IMAGES", "{}"))
    store = json.loads(environment.get("HALOPS_TEST_STORE", "null"))
    return Cluster(
        kubeconfig=Path(kubeconfig).absolute(),
        store=Store(**store) if store else None,
        images={name: reference for name, reference in images.items() if name != "busybox"},
        busybox=images.get("busybox", "busybox:1.36"),
        kubectl_path=shutil.which("kubectl") or "kubectl",
    )

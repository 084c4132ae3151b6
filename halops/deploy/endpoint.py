"""A release's pods as a chat endpoint on this machine."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any

from halops.backends.kube.api import KubeApi
from halops.backends.kube.portforward import dialer, forwarded
from halops.chat import ChatClient
from halops.errors import ConfigError, NotFoundError

PORT = 8080  # of the pods
COMPONENT = {"app.kubernetes.io/name": "halops-inference", "app.kubernetes.io/component": "server"}
ANNOTATION = "halops.dev/"


@contextlib.contextmanager
def release_endpoint(api: KubeApi, release: str, key: str | None = None) -> Iterator[ChatClient]:
    """A client of a release's own pod, by port-forward.

    Args:
        key: an API key; without one the Secret that the pod uses is read.

    Raises NotFoundError where no pod is ready, ConfigError where the Secret can't be read.
    """
    with pod_endpoint(api, ready_pod(api, release), key) as client:
        yield client


@contextlib.contextmanager
def pod_endpoint(api: KubeApi, pod: dict[str, Any], key: str | None = None) -> Iterator[ChatClient]:
    """A client of one pod, by port-forward. Arguments and errors as for release_endpoint."""
    with (
        forwarded(dialer(api.namespace, pod["metadata"]["name"], PORT)) as url,
        ChatClient(url, api_key=key or key_of(api, pod)) as client,
    ):
        yield client


def pod_of_run(api: KubeApi, run_id: str) -> dict[str, Any] | None:
    """A ready pod that serves a run's model, if there is one."""
    pods = [pod for pod in api.list("pods", labels=COMPONENT) if is_ready(pod)]
    return next((pod for pod in pods if provenance_of(pod).get("run-id") == run_id), None)


def ready_pod(api: KubeApi, release: str) -> dict[str, Any]:
    """The newest ready pod of a release. Raises NotFoundError."""
    pods = api.list("pods", labels={**COMPONENT, "app.kubernetes.io/instance": release})
    found = [pod for pod in pods if is_ready(pod)]
    if not found:
        raise NotFoundError(
            f"no pod of {release} is ready", where=f"namespace {api.namespace}",
            remedy=f"kubectl -n {api.namespace} get pods -l app.kubernetes.io/instance={release}",
        )  # fmt: skip
    return max(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod takes requests."""
    conditions = {item["type"]: item["status"] for item in pod.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def key_of(api: KubeApi, pod: dict[str, Any]) -> str | None:
    """The first API key of the Secret that a pod has mounted; None if it asks for none."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
    secret = volumes.get("keys", {}).get("secret")
    if not secret:
        return None
    found = api.get("secrets", secret["secretName"])
    if found is None:
        raise NotFoundError(f"no Secret {secret['secretName']}", where=f"namespace {api.namespace}")
    name = secret["items"][0]["key"] if secret.get("items") else "api-keys"
    lines = base64.b64decode(found["data"][name]).decode().splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"Secret {secret['secretName']} has no key", remedy="one API key a line")
    return keys[0]


def provenance_of(pod: dict[str, Any]) -> dict[str, str]:
    """What a pod's annotations say of its model."""
    notes = pod["metadata"].get("annotations") or {}
    return {key.removeprefix(ANNOTATION): value for key, value in notes.items() if key.startswith(ANNOTATION)}

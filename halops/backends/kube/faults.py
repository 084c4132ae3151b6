"""What the API server says no to, in a person's words."""

from __future__ import annotations

import json
from typing import Any

from halops.errors import BusyError, ConfigError, HalopsError, NotFoundError, TransientError

# Ours to repeat: the server is starting, busy, or has lost its etcd for a moment.
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class Conflict(BusyError):
    """409: it exists already, or somebody changed it first."""


class ClusterUnavailable(TransientError):
    """The API server can't be reached, or goes on failing."""


def unreachable(server: str, detail: str) -> ClusterUnavailable:
    """No answer at all."""
    return ClusterUnavailable(
        f"the cluster can't be reached: {detail}",
        where=server,
        remedy="check KUBECONFIG's current context and the network: kubectl version",
    )


def refused(status: int, body: bytes, what: str) -> HalopsError:
    """The error for an HTTP status of 400 and more.

    Args:
        what: the verb and the object, such as `create job halops-x-train`.
    """
    document = _document(body)
    message = document.get("message") or body[:300].decode(errors="replace") or f"HTTP {status}"
    if status == 409:
        return Conflict(f"can't {what}: {message}")
    if status == 404:
        return NotFoundError(f"can't {what}: {message}", remedy="halops doctor says what the cluster lacks")
    if status in TRANSIENT_STATUS:
        return ClusterUnavailable(f"can't {what}: {message}", remedy="the API server is not well; try again")
    if status == 401:
        return ConfigError(
            f"the cluster doesn't know us: {message}", where=what, remedy="renew the kubeconfig's credentials"
        )
    if status == 403:
        return ConfigError(f"can't {what}", _causes(document) or [message], remedy=_remedy(message))
    return ConfigError(f"can't {what}", _causes(document) or [message], remedy="correct the profile or the site")


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _causes(document: dict[str, Any]) -> list[str]:
    causes = (document.get("details") or {}).get("causes") or []
    return [f"{cause.get('field', '?')}: {cause.get('message', '')}" for cause in causes]


def _remedy(message: str) -> str:
    """403 is the server's answer to three different questions."""
    if "exceeded quota" in message:
        return "wait for running work to end, or have the namespace's ResourceQuota raised"
    if "violates PodSecurity" in message:
        return "the namespace asks for more than this pod keeps to: report it, with `halops submit --dry-run`"
    if "not found" in message and "serviceaccount" in message.lower():
        return "the namespace lacks HALops' service accounts: kubectl apply -k k8s/overlays/OVERLAY"
    return "ask for the role halops-submitter in that namespace (k8s/base/submitter.yaml)"

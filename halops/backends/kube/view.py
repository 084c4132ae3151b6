"""The cluster as `halops doctor` and `halops plan` look at it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import Any, TypeVar

from halops.backends.kube.api import KubeApi
from halops.errors import ConfigError

Object = dict[str, Any]
T = TypeVar("T")


class KubeView:
    """A `halops.checks.view.ClusterView` of a real cluster. What is forbidden is None; a fault raises."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def version(self) -> str:
        """The server's version."""
        return str(self._api.request("GET", "/version", what="ask for the version").get("gitVersion", ""))

    def namespace(self) -> Object | None:
        """The namespace, if it is there and we may see it."""
        return _allowed(lambda: self._api.get("namespaces", self._api.namespace))

    def nodes(self) -> list[Object] | None:
        """All nodes."""
        return _allowed(lambda: self._api.list("nodes"))

    def pods_on_nodes(self) -> list[Object] | None:
        """The pods of all namespaces that have not ended."""
        query = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
        what = "list pods of all namespaces"
        answer = _allowed(lambda: self._api.request("GET", "/api/v1/pods", query=query, what=what))
        return None if answer is None else answer.get("items") or []

    def service_accounts(self) -> set[str] | None:
        """Names of the namespace's ServiceAccounts."""
        found = _allowed(lambda: self._api.list("serviceaccounts"))
        return None if found is None else {item["metadata"]["name"] for item in found}

    def secret_keys(self, name: str) -> set[str] | None:
        """Names of a Secret's keys; the values are dropped here."""
        found = _allowed(lambda: self._api.get("secrets", name))
        return None if found is None else set(found.get("data") or {})

    def try_secret(self, name: str, use: Callable[[dict[str, str]], None]) -> None:
        """Call something with a Secret's values, which go nowhere else."""
        if found := _allowed(lambda: self._api.get("secrets", name)):
            use({key: b64decode(value).decode(errors="replace") for key, value in (found.get("data") or {}).items()})

    def quota(self) -> list[Object] | None:
        """The namespace's ResourceQuotas."""
        return _allowed(lambda: self._api.list("resourcequotas"))

    def network_policies(self) -> list[Object] | None:
        """The namespace's NetworkPolicies."""
        return _allowed(lambda: self._api.list("networkpolicies"))

    def can_i(self, verb: str, resource: str) -> bool:
        """Whether we may; a subresource is written as `pods/log`."""
        kind, _, subresource = resource.partition("/")
        return self._api.can_i(verb, kind, subresource=subresource or None)


def _allowed(ask: Callable[[], T]) -> T | None:
    """The answer, or None if the server refuses it."""
    try:
        return ask()
    except ConfigError:
        return None

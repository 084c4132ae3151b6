"""What the cluster's checks need to see of it. Objects are plain dicts, as the API's JSON has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

Object = Mapping[str, Any]


class ClusterView(Protocol):
    """One namespace of one cluster, and its nodes. A method returns None for what we may not see."""

    def version(self) -> str:
        """The server's version, such as `v1.36.3`. Raises HalopsError if it can't be reached."""
        ...

    def namespace(self) -> Object | None:
        """The namespace; None also if it isn't there."""
        ...

    def nodes(self) -> Sequence[Object] | None:
        """All nodes."""
        ...

    def pods_on_nodes(self) -> Sequence[Object] | None:
        """The pods of all namespaces."""
        ...

    def service_accounts(self) -> set[str] | None:
        """Names of the namespace's ServiceAccounts."""
        ...

    def secret_keys(self, name: str) -> set[str] | None:
        """Names of a Secret's keys, never their values; None also if it isn't there."""
        ...

    def try_secret(self, name: str, use: Callable[[dict[str, str]], None]) -> None:
        """Call something with a Secret's values, which go nowhere else. Raises what it raises."""
        ...

    def quota(self) -> Sequence[Object] | None:
        """The namespace's ResourceQuotas."""
        ...

    def network_policies(self) -> Sequence[Object] | None:
        """The namespace's NetworkPolicies."""
        ...

    def can_i(self, verb: str, resource: str) -> bool:
        """Whether we may do that in the namespace. A subresource is written as `pods/log`."""
        ...

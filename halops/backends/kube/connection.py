"""How the API server is reached: a kubeconfig outside, the service account inside; TLS and tokens by its client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halops.errors import ConfigError

CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0


@dataclass(frozen=True)
class Connection:
    """A server, a pool of verified connections to it, and the header that says who we are."""

    server: str
    pool: Any  # urllib3.PoolManager or ProxyManager
    headers: Callable[[], dict[str, str]]


def connect(context: str | None = None) -> Connection:
    """The server of the kubeconfig (KUBECONFIG, ~/.kube/config), or of this pod. Raises ConfigError."""
    # Its typed API is left alone: it changes between releases, and plain JSON is what people see in YAML.
    from kubernetes import client

    found = settings(context)
    found.retries = False  # our own, which know what may be repeated
    pool = client.ApiClient(found).rest_client.pool_manager

    def headers() -> dict[str, str]:
        given = found.auth_settings().values()  # asked each time: tokens expire, and the client renews them
        return {item["key"]: item["value"] for item in given if item["in"] == "header" and item["value"]}

    return Connection(found.host.rstrip("/"), pool, headers)


def settings(context: str | None = None) -> Any:
    """The client's settings for that server. Raises ConfigError."""
    from kubernetes import client, config

    found = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=found)
        except config.ConfigException:
            config.load_kube_config(context=context, client_configuration=found)
    except (config.ConfigException, OSError, TypeError) as error:
        raise ConfigError(
            f"no cluster is configured: {error}",
            remedy="set KUBECONFIG, or write ~/.kube/config; --backend local needs no cluster",
        ) from error
    return found

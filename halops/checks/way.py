"""The way from the stages' pods to the store, as far as the namespace's NetworkPolicies tell it."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from halops.checks.base import Check, ok, skip, warn
from halops.checks.view import ClusterView, Object
from halops.manifests.pods import labels
from halops.names import COORDINATOR, STAGES
from halops.site import Site

PUBLIC = "203.0.113.1"  # stands for any public address (RFC 5737), such as those of AWS
PORTS = {"http": 80, "https": 443}


def look(view: ClusterView, site: Site) -> Check:
    """The way to a site's store, with its address as it is known here."""
    endpoint = site.s3.endpoint_url if site.s3 else None
    return way(view.network_policies(), endpoint, addresses_of(endpoint))


def way(policies: Sequence[Object] | None, endpoint: str | None, addresses: Sequence[str]) -> Check:
    """Whether every stage's pods may open a connection to the store.

    Args:
        policies: the namespace's NetworkPolicies; None if we may not list them.
        endpoint: of the store; None for AWS.
        addresses: the endpoint's, as seen from here.
    """
    title = "network policies"
    if policies is None:
        return skip(title, "we may not list them; `halops status` tells if they close the way to the store")
    if not addresses:
        return skip(title, f"{endpoint} has no address here, so whether they lead to it can't be told")
    url = urlsplit(endpoint or "https://")
    port = url.port or PORTS.get(url.scheme, 443)
    shut = [
        stage
        for stage in (COORDINATOR, *STAGES)
        if not any(open_to(policies, labels("any", stage), one, port) for one in addresses)
    ]
    where = f"{url.hostname or 'AWS'} on port {port}"
    if shut:
        return warn(
            title,
            f"they keep {', '.join(shut)} from {where}: where they are enforced, nothing would go on",
            "add k8s/components/store-external, or store-cidr with the store's address, to the overlay",
        )
    return ok(title, f"every stage may reach {where}")


def addresses_of(endpoint: str | None) -> list[str]:
    """Those that an endpoint's name has here; none if it has none, or if only the cluster's own DNS knows it."""
    if endpoint is None:
        return [PUBLIC]
    host = urlsplit(endpoint).hostname or ""
    if host.endswith((".svc", ".cluster.local")):
        return []
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def open_to(policies: Iterable[Object], marks: Mapping[str, str], address: str, port: int) -> bool:
    """Whether pods with these labels may connect to an address, by TCP. A rule for other pods counts as an opening:
    whose address that is can't be told."""
    specs = [policy["spec"] for policy in policies]
    shutting = [spec for spec in specs if _about_egress(spec) and _selects(spec.get("podSelector") or {}, marks)]
    rules = [rule for spec in shutting for rule in spec.get("egress") or []]
    return not shutting or any(_leads_to(rule, address, port) for rule in rules)


def _about_egress(spec: Mapping[str, Any]) -> bool:
    return "Egress" in (spec.get("policyTypes") or (["Egress"] if spec.get("egress") else []))


def _selects(selector: Mapping[str, Any], marks: Mapping[str, str]) -> bool:
    """A label selector, as the API has it."""
    if any(marks.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_fits(item, marks.get(item["key"])) for item in selector.get("matchExpressions") or [])


def _fits(expression: Mapping[str, Any], value: str | None) -> bool:
    among = value in (expression.get("values") or [])
    return {
        "In": among,
        "NotIn": not among,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def _leads_to(rule: Mapping[str, Any], address: str, port: int) -> bool:
    ports, peers = rule.get("ports") or [], rule.get("to") or []
    return (not ports or any(_is_port(item, port) for item in ports)) and (
        not peers or any("ipBlock" not in peer or _holds(peer["ipBlock"], address) for peer in peers)
    )


def _is_port(item: Mapping[str, Any], port: int) -> bool:
    first = item.get("port")
    if item.get("protocol", "TCP") != "TCP":
        return False
    if not isinstance(first, int):
        return True  # every port, or a name that only the other end's pod knows
    return first <= port <= int(item.get("endPort") or first)


def _holds(block: Mapping[str, Any], address: str) -> bool:
    found = ip_address(address)
    return found in ip_network(block["cidr"]) and all(found not in ip_network(one) for one in block.get("except") or [])

"""Whether the NetworkPolicies of a namespace lead to the store: those that k8s/ ships, and other people's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from halops.checks.way import PUBLIC, addresses_of, open_to, way

FOLDER = Path(__file__).resolve().parents[3] / "k8s"
STORE = "http://10.0.3.9:9000"


def shipped(*names: str) -> list[Any]:
    """The policies of these folders."""
    return [item for name in names for item in yaml.safe_load_all((FOLDER / name / "network.yaml").read_text())]


def own(address: str, port: int) -> list[Any]:
    """The base with store-cidr patched, as an overlay does."""
    made = shipped("base", "components/store-cidr")
    rule = made[-1]["spec"]["egress"][0]
    rule["to"][0]["ipBlock"]["cidr"], rule["ports"][0]["port"] = f"{address}/32", port
    return made


def policy(egress: Sequence[Any] | None, selector: Any = None, types: Sequence[str] | None = None) -> Any:
    spec: dict[str, Any] = {"podSelector": selector or {}}
    spec |= {"policyTypes": list(types)} if types is not None else {}
    return {"spec": spec | ({"egress": list(egress)} if egress is not None else {})}


def test_the_base_alone_keeps_every_stage_from_the_store() -> None:
    found = way(shipped("base"), STORE, ["10.0.3.9"])
    assert found.status == "warn"
    assert found.detail.startswith("they keep coordinator, base, data, train, merge, convert, verify from 10.0.3.9 on")
    assert "store-cidr" in (found.remedy or "")
    aws = way(shipped("base"), None, addresses_of(None))  # bases come from a hub, and the API server may be anywhere
    assert aws.detail.startswith("they keep data, train")


def test_a_component_opens_the_way() -> None:
    assert way(own("10.0.3.9", 9000), STORE, ["10.0.3.9"]).status == "ok"
    assert way(shipped("base", "components/store-external"), None, [PUBLIC]).status == "ok"
    assert way(shipped("base", "components/store-external"), "https://s3.example", ["198.51.100.7"]).status == "ok"


@pytest.mark.parametrize(
    ("policies", "endpoint", "address"),
    [
        (own("10.0.3.9", 443), STORE, "10.0.3.9"),
        (own("10.0.3.8", 9000), STORE, "10.0.3.9"),
        (shipped("base", "components/store-external"), "https://10.0.3.9", "10.0.3.9"),  # a private address
        (shipped("base", "components/store-external"), "http://s3.example", "198.51.100.7"),  # port 80
    ],
    ids=["port", "address", "private", "http"],
)
def test_a_component_for_another_store_does_not(policies: list[Any], endpoint: str, address: str) -> None:
    assert way(policies, endpoint, [address]).status == "warn"


def test_what_cannot_be_told() -> None:
    assert way(None, STORE, ["10.0.3.9"]).status == "skip"
    assert addresses_of("http://minio.storage.svc:9000") == []
    assert addresses_of("http://[::1]:9000") == ["::1"]
    assert addresses_of("http://127.0.0.1:9000") == ["127.0.0.1"]
    assert "has no address here" in way([], "http://minio.storage.svc:9000", []).detail
    assert way([], STORE, ["10.0.3.9"]).status == "ok"


BLOCK = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.4.0/24"]}}


@pytest.mark.parametrize(
    ("made", "opened"),
    [
        (policy([{}]), True),
        (policy([]), True),  # an empty list says nothing of egress, unless policyTypes does: Kubernetes' own default
        (policy([], types=["Egress"]), False),
        (policy([], types=["Ingress"]), True),
        (policy([{"to": [BLOCK]}]), True),
        (policy([{"to": [{"ipBlock": {"cidr": "10.0.3.0/24", "except": ["10.0.3.8/29"]}}]}]), False),
        (policy([{"to": [{"ipBlock": {"cidr": "::/0"}}]}]), False),
        (policy([{"to": [{"podSelector": {}}]}]), True),  # the store may be one of these pods
        (policy([{"ports": [{"port": 8000, "endPort": 9100}]}]), True),
        (policy([{"ports": [{"port": 8000, "endPort": 8999}]}]), False),
        (policy([{"ports": [{"port": 9000, "protocol": "UDP"}]}]), False),
        (policy([{"ports": [{"port": "s3"}]}]), True),
        (policy([], {"matchLabels": {"app": "x"}}, ["Egress"]), False),
        (policy([], {"matchLabels": {"app": "y"}}, ["Egress"]), True),
        (policy([], {"matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]}, ["Egress"]), False),
        (policy([], {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}, ["Egress"]), True),
        (policy([], {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, ["Egress"]), True),
        (policy([], {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, ["Egress"]), False),
    ],
)  # fmt: skip
def test_one_policy(made: Any, opened: bool) -> None:
    assert open_to([made], {"app": "x"}, "10.0.3.9", 9000) is opened


def test_policies_add_up() -> None:
    closed, other = policy([], types=["Egress"]), policy([{"to": [BLOCK]}])
    assert open_to([closed, other], {}, "10.0.3.9", 9000)
    assert not open_to([closed, other], {}, "10.0.4.9", 9000)

"""Alerts, the autoscaler's query and the dashboard are what Prometheus and Grafana can read."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser

from tests.helm import of_kind, rendered

VALUES = {
    "metrics": {"serviceMonitor": True, "secret": "p", "rules": True, "dashboard": True, "minTokensPerSecond": 20},
    "autoscaling": {"type": "keda", "prometheus": "http://prometheus:9090"},
}


def dashboard(objects: list[Any]) -> Any:
    boards = [
        item for item in objects if item["kind"] == "ConfigMap" and "grafana_dashboard" in item["metadata"]["labels"]
    ]
    return json.loads(boards[0]["data"]["ops.json"])


def test_every_query_is_promql() -> None:
    objects = rendered(VALUES)
    rules = of_kind(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    queries = [rule["expr"] for rule in rules]
    queries += [trigger["metadata"]["query"] for trigger in of_kind(objects, "ScaledObject")["spec"]["triggers"]]
    queries += [target["expr"] for panel in dashboard(objects)["panels"] for target in panel["targets"]]
    assert len(queries) > 14
    for query in queries:
        promql_parser.parse(query)
        assert 'namespace="halops"' in query


def test_a_rule_that_is_no_promql_would_be_noticed() -> None:
    try:
        promql_parser.parse("sum(a{b=c})")
    except ValueError:
        return
    raise AssertionError("it was accepted")


def test_an_alert_says_what_to_do() -> None:
    rules = of_kind(rendered(VALUES), "PrometheusRule")["spec"]["groups"][0]["rules"]
    alerts = [rule for rule in rules if "alert" in rule]
    assert len(alerts) == 4
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["annotations"]["description"]


def test_the_monitor_finds_the_pods_service_alone() -> None:
    objects = rendered(VALUES)
    wanted = of_kind(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    services = [item for item in objects if item["kind"] == "Service"]
    found = [item["metadata"]["name"] for item in services if wanted.items() <= item["metadata"]["labels"].items()]
    assert found == ["ops-pods"]


def test_the_dashboard_has_its_own_identity() -> None:
    board = dashboard(rendered(VALUES))
    assert re.fullmatch(r"halops-[0-9a-f]{12}", board["uid"])
    assert board["title"] == "HALops inference: halops/ops"
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(places) == len(set(places)) == 7

"""Strict validation of manifests against the OpenAPI schemas of Kubernetes and custom kinds: unknown fields are errors.

The schemas are those of tools/kube_schemas.sh, which fetches them once into the user's cache.
"""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

MINORS = ("1.33", "1.34", "1.35", "1.36")
TOOL = Path(__file__).parents[1] / "tools" / "kube_schemas.sh"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
GROUP_VERSION_KIND = "x-kubernetes-group-version-kind"


def validate(objects: Iterable[dict[str, Any]], minor: str) -> list[str]:
    """Every problem of these objects in a cluster of that minor, each as `Kind/name: path: what`.

    Args:
        minor: one of MINORS. Custom kinds (Kueue's, ...) have one schema, whichever minor it is.
    """
    return [problem for thing in objects for problem in _validate(thing, minor)]


def _validate(thing: dict[str, Any], minor: str) -> list[str]:
    name = f"{thing.get('kind')}/{thing.get('metadata', {}).get('name')}"
    validator = _validators(minor).get((str(thing.get("apiVersion")), str(thing.get("kind"))))
    if validator is None:
        return [f"{name}: no kind {thing.get('kind')!r} in {thing.get('apiVersion')!r}"]
    errors = sorted(validator.iter_errors(thing), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


@cache
def folder() -> Path:
    """The schemas' folder; fetched if they aren't there yet."""
    answer = subprocess.run([TOOL], check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    return Path(answer.stdout.strip())


@cache
def _validators(minor: str) -> dict[tuple[str, str], Draft7Validator]:
    """One for each (apiVersion, kind)."""
    with gzip.open(folder() / f"{minor}.json.gz") as stream:
        raw = json.load(stream)
    definitions = {name: _strict(schema) for name, schema in raw.items()}
    definitions[QUANTITY] = {"type": ["string", "number"]}  # the API takes both
    found = {}
    for name, schema in raw.items():
        for kind in schema.get(GROUP_VERSION_KIND, []):
            version = f"{kind['group']}/{kind['version']}" if kind["group"] else kind["version"]
            root = {"allOf": [{"$ref": f"#/definitions/{name}"}], "definitions": definitions}
            found[version, kind["kind"]] = Draft7Validator(root)
    return found | _custom()


@cache
def _custom() -> dict[tuple[str, str], Draft7Validator]:
    found = {}
    for path in folder().glob("*.yaml.gz"):
        with gzip.open(path) as stream:
            spec = yaml.safe_load(stream)["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = Draft7Validator(schema)
    return found


def _strict(node: Any) -> Any:
    """A schema in which an object has no other fields than those named."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string") is True:
        return {"type": ["string", "integer"]}
    strict = {
        key: {name: _strict(item) for name, item in value.items()} if key == "properties" else _strict(value)
        for key, value in node.items()
        if key != "format"
    }
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
        strict["additionalProperties"] = False
    return strict

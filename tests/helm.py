"""helm and its tools on our chart, for tests."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "halops-inference"
DIGEST = "a" * 64

Object = dict[str, Any]

# What must be given.
GIVEN: Object = {
    "image": f"registry.example/serve@sha256:{DIGEST}",
    "fetch": {"image": f"registry.example/merge@sha256:{DIGEST}"},
    "model": {"url": "s3://ops/model.gguf", "sha256": DIGEST, "bytes": 4683073952},
    "auth": {"secret": "keys"},
}


@cache
def tool(name: str = "helm") -> str:
    """The path of helm, helm-unittest, helm-docs or helm-schema; built if it isn't there yet."""
    command = [ROOT / "tools" / "helm.sh", name]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=1800).stdout.strip()


def merged(base: Object, over: Object) -> Object:
    """Two values files as one, the second winning."""
    both = {key: merged(base[key], value) for key, value in over.items()
            if isinstance(value, dict) and isinstance(base.get(key), dict)}  # fmt: skip
    return base | over | both


def template(values: Object, *files: Path, release: str = "ops") -> subprocess.CompletedProcess[str]:
    """`helm template` of files of values, then what must be given and these values."""
    words = [tool(), "template", release, str(CHART), "--namespace", "halops"]
    words += [word for file in files for word in ("--values", str(file))]
    text = json.dumps(merged(GIVEN, values))
    return subprocess.run(
        [*words, "--values", "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def rendered(values: Object, *files: Path) -> list[Object]:
    """The objects."""
    done = template(values, *files)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def of_kind(objects: list[Object], kind: str) -> Object:
    """The first of a kind."""
    return next(item for item in objects if item["kind"] == kind)


def server_of(objects: list[Object]) -> Object:
    """The server's container."""
    return dict(of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0])

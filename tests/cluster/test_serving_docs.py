"""docs/serving.md, typed as it is written: from a file to an answer."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.cluster.handle import ROOT, Cluster
from tests.cluster.serving import KEYS_SECRET, S3_SECRET, Serving, serving
from tests.helm import merged, tool

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "serving.md"


def blocks() -> list[str]:
    """The page's indented blocks up to its first heading below the title."""
    first = PAGE.read_text().split("\n## ")[0]
    found = re.findall(r"(?:^(?:    .*|)\n)+", first, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


def test_a_file_becomes_an_answer(cluster: Cluster, gguf: Path, tmp_path: Path) -> None:
    with serving(cluster, tmp_path, gguf) as made:
        prepare(made, gguf)
        setup, values, install, ask, *_ = blocks()
        write_values(made, yaml.safe_load(values))
        script = "\n".join(["set -euo pipefail", setup, install, ask, "kill $!"])
        script = script.replace("serving\n", f"{made.namespace}\n").replace("-n serving ", f"-n {made.namespace} ")
        script = script.replace("namespace serving ", f"namespace {made.namespace} ")
        said = run(made, script)
        assert "with the key: 200" in said
        answer = json.loads(said[said.rindex('{"choices"') :].splitlines()[0])
        assert answer["choices"][0]["message"]["content"]
        assert answer["model"] == "ops"


def prepare(made: Serving, gguf: Path) -> None:
    """A folder with the person's files, and the commands under their names."""
    assert made.cluster.store
    (made.folder / "model.gguf").symlink_to(gguf)
    (made.folder / "helm").symlink_to(ROOT / "helm")
    keys = "".join(f"{name}={value}\n" for name, value in made.cluster.store.keys.items())
    (made.folder / "keys.env").write_text(keys)
    made.kubectl("delete", "secret", S3_SECRET, KEYS_SECRET)
    programs = made.folder / "bin"
    programs.mkdir()
    shims = {
        "helm": f'exec {tool()} "$@"',
        "kubectl": f'[[ "$*" != *"create namespace"* ]] || exit 0\nexec {made.cluster.kubectl_path} "$@"',
        "halops": "exit 0",  # the images are built and loaded
        "aws": "exit 0",  # the model is in the store
    }
    for name, body in shims.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)


def write_values(made: Serving, written: dict[str, object]) -> None:
    """The page's values, with this cluster's images, store and node."""
    here = made.values()
    del here["model"]["sha256"], here["model"]["bytes"], here["model"]["dimensions"]  # those come from describe
    del here["model"]["alias"], here["auth"]
    (made.folder / "values.yaml").write_text(yaml.safe_dump(merged(written, here)))


def run(made: Serving, script: str) -> str:
    """What a script says, where the API server can be reached, with its PATH."""
    path = f"PATH={made.folder}/bin:{ROOT}/.venv/bin:{os.environ['PATH']}"
    home = f"PYTHONPATH={ROOT}"
    done = made.cluster.run(["env", path, home, "bash", "-c", script], cwd=made.folder, timeout=400)
    return done.stdout

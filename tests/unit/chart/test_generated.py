"""README and schema are what values.yaml says, and helm's own checks pass."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helm import CHART, tool

MAKERS = {
    "values.schema.json": ("helm-schema", ()),
    "README.md": ("helm-docs", ("--sort-values-order", "file")),
}


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_up_to_date(name: str, tmp_path: Path) -> None:
    """`make chart` writes them."""
    program, arguments = MAKERS[name]
    copy = tmp_path / CHART.name
    shutil.copytree(CHART, copy)
    (copy / name).unlink()
    subprocess.run([tool(program), *arguments], cwd=copy, check=True, capture_output=True, timeout=60)
    assert (copy / name).read_text() == (CHART / name).read_text(), "make chart"


def test_every_value_is_described() -> None:
    """A row of the README without a description is a value without a comment."""
    rows = [line for line in (CHART / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 80
    assert [row for row in rows if row.rstrip(" |").endswith(("`", "``")) and row.count("|") < 5] == []
    assert [row for row in rows if not row.split("|")[4].strip()] == []


def test_the_suites_pass_and_leave_no_template_out() -> None:
    done = subprocess.run([tool("helm-unittest"), str(CHART)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    suites = "".join(path.read_text() for path in (CHART / "tests").glob("*_test.yaml"))
    templates = [
        str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*") if path.suffix in (".yaml", ".txt")
    ]
    assert len(templates) > 10
    assert [name for name in templates if name not in suites] == []


def test_helm_finds_nothing_to_complain_of() -> None:
    words = [tool(), "lint", "--strict", str(CHART), "--values", str(CHART / "tests" / "given.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_has_all_that_is_needed(tmp_path: Path) -> None:
    subprocess.run([tool(), "package", str(CHART), "--destination", str(tmp_path)], check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tgz")
    listed = subprocess.run(["tar", "tzf", archive], check=True, capture_output=True, text=True).stdout
    inside = {line.partition("/")[2] for line in listed.splitlines()}
    needed = {"values.yaml", "values-8gb.yaml", "values-a100.yaml", "values.schema.json", "README.md", "files/drain.sh"}
    assert needed | {"templates/tests/answers.yaml"} <= inside
    assert not [name for name in inside if name.startswith("tests/")]

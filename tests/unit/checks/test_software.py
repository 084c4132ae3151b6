"""Packages by stage, and llama.cpp."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from halops.checks import software
from halops.names import ENV_CACHE, ENV_LLAMA_CPP

ROOT = Path(__file__).parents[3]
DISTRIBUTIONS = {"protobuf": "google.protobuf", "liger-kernel": "liger_kernel"}


def test_the_table_is_that_of_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in software.MODULES.items():
        names = [re.split(r"[>=<;\[ ]", line)[0] for line in extras[extra] if not line.startswith("halops")]
        expected = {DISTRIBUTIONS.get(name, name) for name in names} - set(software.GPU_MODULES)
        assert set(modules) == expected, extra


def test_everything_is_there() -> None:
    (check,) = software.packages(gpu=True, is_present=lambda _: True)
    assert check.status == "ok"


def test_what_is_missing_is_named_by_stage() -> None:
    checks = software.packages(gpu=False, is_present=lambda name: name not in ("peft", "threadpoolctl"))
    assert [(check.name, check.detail, check.remedy) for check in checks] == [
        ("packages: train", "missing: peft", "pip install 'halops[train]'"),
        ("packages: merge", "missing: threadpoolctl", "pip install 'halops[merge]'"),
    ]


def test_liger_is_for_gpus() -> None:
    def lacks(name: str) -> bool:
        return name != "liger_kernel"

    assert software.packages(gpu=False, is_present=lacks)[0].status == "ok"
    assert software.packages(gpu=True, is_present=lacks)[0].detail == "missing: liger_kernel"


def test_presence_is_found_without_importing() -> None:
    assert software.present("json")
    assert not software.present("no_such_module_here")
    assert not software.present("no_such.module")


def test_llama_cpp_not_built_but_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_LLAMA_CPP, raising=False)
    monkeypatch.setenv(ENV_CACHE, str(tmp_path))
    check = software.llama_cpp()
    assert check.status == "warn"
    assert "not built yet" in check.detail


def test_llama_cpp_can_not_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_LLAMA_CPP, raising=False)
    monkeypatch.setenv(ENV_CACHE, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    check = software.llama_cpp()
    assert check.status == "fail"
    assert "cmake" in check.detail
    assert "apt-get install" in check.remedy


def test_a_folder_that_is_no_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_LLAMA_CPP, str(tmp_path))
    check = software.llama_cpp()
    assert check.status == "fail"
    assert "not a built llama.cpp" in check.detail

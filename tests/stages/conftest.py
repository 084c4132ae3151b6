"""Models that several stages' tests share, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from halops.chat_template import CHATML
from halops.llamacpp.toolchain import Toolchain
from tests.tiny_models import tiny_adapter, tiny_llama


@pytest.fixture(scope="session")
def tiny_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with SmolLM2's tokenizer and plain ChatML."""
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "model", smollm2, CHATML)


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for `tiny_model`."""
    return tiny_adapter(tmp_path_factory.mktemp("lora") / "adapter")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, llama_cpp: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` as an F16 GGUF file."""
    from halops.llamacpp.convert import Converter

    folder = tmp_path_factory.mktemp("gguf")
    Converter(llama_cpp, folder / "log").convert_hf(tiny_model, folder / "tiny-f16.gguf", "f16", name="tiny")
    return folder / "tiny-f16.gguf"

"""A model small enough to write out in milliseconds, with a cache of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from halops.models import hub as hub_module
from tests.hub_server import HubServer, hub_server
from tests.tiny_models import tiny_adapter, tiny_llama

NAME = "tiny/llama"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache."""
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model folder; its tokenizer is a stand-in."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "config.json").write_text('{"vocab_size": 64}')
    (tokenizer / "generation_config.json").write_text("{}")
    (tokenizer / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (tokenizer / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}))
    return tiny_llama(tmp_path / "model", tokenizer, "{{ messages }}", hidden=32)


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same model in two shards with an index."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, model / shard, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter's folder."""
    return tiny_adapter(tmp_path / "adapter", hidden=32)


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A loopback hub that serves `model` as tiny/llama, and is where HF_ENDPOINT points."""
    with hub_server() as server:
        server.add_folder(NAME, model)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub_module, "PAUSE", 0.01)
        yield server

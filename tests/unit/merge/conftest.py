"""Small models and adapters made with numpy alone: the merge knows no torch, and neither do these tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

PREFIX = "base_model.model."
Tensors = Mapping[str, tuple[str, NDArray[Any]]]


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 cut to bfloat16's bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """A safetensors file from (dtype, array of the same bytes and shape)."""
    entries, position = {}, 0
    for name, (dtype, array) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    header = json.dumps(entries).encode()
    data = b"".join(array.tobytes() for _, array in tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


@dataclass
class Pair:
    """A base, an adapter and a place for the merged model."""

    base: Path
    adapter: Path
    output: Path
    tensors: dict[str, tuple[str, NDArray[Any]]] = field(default_factory=dict)
    lora: dict[str, tuple[str, NDArray[Any]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    lora_config: dict[str, Any] = field(default_factory=dict)

    def write(self) -> Pair:
        """Write everything; again, after a change."""
        write_safetensors(self.base / "model.safetensors", self.tensors)
        (self.base / "config.json").write_text(json.dumps(self.config))
        write_safetensors(self.adapter / "adapter_model.safetensors", self.lora)
        (self.adapter / "adapter_config.json").write_text(json.dumps(self.lora_config))
        return self


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Two adapted matrices of unequal shape, an embedding and a norm; bfloat16; rank 4, scale 2."""
    rng = np.random.default_rng(3)

    def normal(*shape: int, std: float) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32) * np.float32(std)

    made = Pair(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    made.config = {"model_type": "llama", "torch_dtype": "bfloat16", "tie_word_embeddings": True}
    made.lora_config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["up_proj", "down_proj"]}
    shapes = {"mlp.up_proj": (130, 64), "mlp.down_proj": (64, 130)}
    for name, shape in shapes.items():
        module = f"model.layers.0.{name}"
        made.tensors[f"{module}.weight"] = ("BF16", bfloat16(normal(*shape, std=0.02)))
        made.lora[f"{PREFIX}{module}.lora_A.weight"] = ("F32", normal(4, shape[1], std=0.2))
        made.lora[f"{PREFIX}{module}.lora_B.weight"] = ("F32", normal(shape[0], 4, std=0.02))
    made.tensors["model.embed_tokens.weight"] = ("BF16", bfloat16(normal(300, 64, std=0.02)))
    made.tensors["model.norm.weight"] = ("BF16", bfloat16(normal(64, std=1)))
    return made.write()


@pytest.fixture
def make_safetensors() -> Callable[[Path, Tensors], None]:
    """Write a safetensors file by hand."""
    return write_safetensors

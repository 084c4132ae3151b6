from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halops.errors import ModelError, NotFoundError
from halops.models.dimensions import read_dimensions
from halops.sections import Dimensions

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def write(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_qwen_2_5_7b(tmp_path: Path) -> None:
    """The published config.json, less what doesn't matter here."""
    folder = write(
        tmp_path, architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=3584, intermediate_size=18944,
        num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, vocab_size=152064,
        max_position_embeddings=32768, tie_word_embeddings=False,
    )  # fmt: skip
    assert read_dimensions(folder) == Dimensions()
    assert read_dimensions(folder / "config.json") == Dimensions()


def test_what_the_file_says_counts(tmp_path: Path) -> None:
    folder = write(
        tmp_path, model_type="llama", **SMALL, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
        attention_bias=True, max_position_embeddings=777,
    )  # fmt: skip
    found = read_dimensions(folder)
    assert (found.num_key_value_heads, found.head_dim, found.max_position_embeddings) == (2, 32, 777)
    assert found.tie_word_embeddings
    assert found.attention_bias


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_dimensions(write(tmp_path, model_type="llama", hidden_size=True, num_attention_heads=0, vocab_size=1.5))
    assert len(caught.value.problems) == 5
    with pytest.raises(NotFoundError):
        read_dimensions(tmp_path / "none")

"""A model's dimensions from its config.json, with the defaults that its family has for keys left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halops.artifact import Frozen
from halops.disk import disk_errors
from halops.errors import ModelError, NotFoundError
from halops.sections import Dimensions


class Family(Frozen):
    """What a dense decoder's family assumes when config.json is silent. Source: transformers' configuration classes."""

    architecture: str
    tie_word_embeddings: bool = False
    attention_bias: bool | None = False  # None: as `attention_bias` in config.json says, by default no
    head_dim: int | None = None
    max_position_embeddings: int = 2048


# model_type -> family: the dense decoders that transformers and llama.cpp both know, with standard projections.
FAMILIES: dict[str, Family] = {
    "llama": Family(architecture="LlamaForCausalLM", attention_bias=None),
    "mistral": Family(architecture="MistralForCausalLM", max_position_embeddings=131072),
    "qwen2": Family(architecture="Qwen2ForCausalLM", attention_bias=True, max_position_embeddings=32768),
    "qwen3": Family(architecture="Qwen3ForCausalLM", attention_bias=None, head_dim=128, max_position_embeddings=32768),
    "phi3": Family(architecture="Phi3ForCausalLM", max_position_embeddings=4096),
    "gemma": Family(architecture="GemmaForCausalLM", tie_word_embeddings=True, attention_bias=None, head_dim=256,
                    max_position_embeddings=8192),
    "gemma2": Family(architecture="Gemma2ForCausalLM", tie_word_embeddings=True, attention_bias=None, head_dim=256,
                     max_position_embeddings=8192),
    "gemma3_text": Family(architecture="Gemma3ForCausalLM", tie_word_embeddings=True, attention_bias=None,
                          head_dim=256, max_position_embeddings=131072),
    "smollm3": Family(architecture="SmolLM3ForCausalLM", tie_word_embeddings=True, attention_bias=None,
                      max_position_embeddings=32768),
    "granite": Family(architecture="GraniteForCausalLM", attention_bias=None),
    "olmo2": Family(architecture="Olmo2ForCausalLM", attention_bias=None),
}  # fmt: skip

REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def read_config(path: Path) -> dict[str, Any]:
    """A config.json as a mapping. Raises NotFoundError or ModelError."""
    if not path.is_file():
        raise NotFoundError("no config.json", where=str(path), remedy="give a Hugging Face model folder")
    try:
        with disk_errors(path):
            config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"not valid JSON: {error}", where=str(path), remedy="fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError("expected a mapping", where=str(path), remedy="fetch the model again")
    return config


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family of a supported model. Raises ModelError naming what is supported."""
    known = ", ".join(sorted(family.architecture for family in FAMILIES.values()))
    remedy = f"supported are dense decoders: {known}"
    family = FAMILIES.get(str(config.get("model_type")))
    names = config.get("architectures") or ([family.architecture] if family else [])
    if family is None or names != [family.architecture]:
        what = ", ".join(map(str, names)) if names and isinstance(names, list) else config.get("model_type")
        if config.get("auto_map"):
            raise ModelError(f"{what} needs Python code from its own folder", where=where, remedy=remedy)
        raise ModelError(f"can't use a model of the kind {what}", where=where, remedy=remedy)
    return family


def read_dimensions(path: Path) -> Dimensions:
    """Dimensions from a config.json, or from the one in a folder.

    Raises NotFoundError or ModelError, with every key that is missing or wrong.
    """
    path = path / "config.json" if path.is_dir() else path
    config = read_config(path)
    return dimensions_from(config, family_of(config, str(path)), str(path))


def dimensions_from(config: dict[str, Any], family: Family, where: str) -> Dimensions:
    """Dimensions from a parsed config.json. Raises ModelError."""
    wanted = (*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings")
    bad = [f"{key}: missing" for key in REQUIRED if config.get(key) is None]
    bad += [
        f"{key}: expected a positive integer, not {config[key]!r}"
        for key in wanted
        if config.get(key) is not None and (type(config[key]) is not int or config[key] <= 0)
    ]
    if bad:
        raise ModelError("config.json has not the dimensions of a decoder", bad, where=where)
    bias = config.get("attention_bias", False) if family.attention_bias is None else family.attention_bias
    return Dimensions(
        **{key: config[key] for key in REQUIRED},
        num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_dim=config.get("head_dim") or family.head_dim,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", family.tie_word_embeddings)),
        attention_bias=bool(bias),
        max_position_embeddings=config.get("max_position_embeddings") or family.max_position_embeddings,
    )

"""Is this folder a model, or an adapter, that can be used from end to end? Only headers are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halops.artifact import walk_files
from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.models.dimensions import dimensions_from, family_of, read_config
from halops.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, SINGLE
from halops.models.formats import TensorInfo, read_safetensors_header, refuse_pickle
from halops.sections import Dimensions

EMBEDDING = "model.embed_tokens.weight"


def check_folder(folder: Path) -> None:
    """Check a model's or an adapter's folder, whichever it is. Raises as the two below."""
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        check_adapter_folder(folder)
    else:
        check_model_folder(folder)


def check_model_folder(folder: Path) -> Dimensions:
    """Check that `folder` holds a supported model with all its weights, and a tokenizer.

    Raises:
        NotFoundError: no such folder, or no config.json in it.
        ModelError: an unsupported kind, quantized already, a pickle, or no tokenizer.
        IntegrityError: a shard or a tensor is missing, damaged, or not of config.json's dimensions.
    """
    if not folder.is_dir():
        raise NotFoundError("no such model folder", where=str(folder), remedy="check the path")
    config = read_config(folder / "config.json")
    family = family_of(config, str(folder / "config.json"))
    dimensions = dimensions_from(config, family, str(folder / "config.json"))
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "") if isinstance(quantized, dict) else ""
        raise ModelError(
            f"the model is quantized already {method}".strip(),
            where=str(folder / "config.json"),
            remedy="use its original: HALops quantizes by itself, for training and for serving",
        )
    for _, path in walk_files(folder):
        refuse_pickle(path)
    _check_weights(read_weights(folder), dimensions, folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            "no tokenizer.json",
            where=str(folder),
            remedy="make one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    _json(folder / "tokenizer.json")
    return dimensions


def read_weights(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a model folder, over all shards; each shard is checked. Raises as `check_model_folder`."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise NotFoundError(f"no {SINGLE} or {INDEX}", where=str(folder), remedy="give a folder with safetensors")
        return read_safetensors_header(folder / SINGLE)
    tensors: dict[str, TensorInfo] = {}
    placed = _weight_map(index)
    for shard in sorted(set(placed.values())):
        if "/" in shard or shard.startswith("."):
            raise ModelError(f"the index names a shard outside its folder: {shard!r}", where=str(index))
        if not (folder / shard).is_file():
            raise IntegrityError(f"the shard {shard} is missing", where=str(folder), remedy="fetch the model again")
        found = read_safetensors_header(folder / shard)
        expected = {name for name, file in placed.items() if file == shard}
        if missing := sorted(expected - found.keys()):
            raise IntegrityError(f"{shard} lacks the tensor {missing[0]}", where=str(index), remedy="fetch it again")
        tensors |= {name: found[name] for name in expected}
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    placed = _json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(shard, str) for shard in placed.values()):
        raise IntegrityError("the index has no weight_map", where=str(index), remedy="fetch the model again")
    return placed


def _check_weights(tensors: dict[str, TensorInfo], dimensions: Dimensions, folder: Path) -> None:
    """The embedding's shape and every layer: a config.json of another model is noticed here."""
    expected = (dimensions.vocab_size, dimensions.hidden_size)
    embedding = tensors.get(EMBEDDING)
    if embedding is None or embedding.shape != expected:
        shape = embedding.shape if embedding else "none"
        raise IntegrityError(
            f"{EMBEDDING} should have the shape {expected}; it has {shape}",
            where=str(folder),
            remedy="config.json and weights belong to different models: fetch the model again",
        )
    for layer in range(dimensions.num_hidden_layers):
        if not any(name.startswith(f"model.layers.{layer}.") for name in tensors):
            raise IntegrityError(
                f"layer {layer} has no tensors, of {dimensions.num_hidden_layers} layers in config.json",
                where=str(folder),
                remedy="fetch the model again",
            )


def check_adapter_folder(folder: Path) -> None:
    """Check that `folder` holds a LoRA adapter as safetensors. Raises as `check_model_folder`."""
    config = read_config(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"an adapter of the kind {config.get('peft_type')!r}, not LORA",
            where=str(folder / ADAPTER_CONFIG),
            remedy="only LoRA adapters can be trained on and merged",
        )
    for _, path in walk_files(folder):
        refuse_pickle(path)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise NotFoundError(f"no {ADAPTER_WEIGHTS}", where=str(folder), remedy="save the adapter as safetensors")
    if not any(".lora_A." in name for name in read_safetensors_header(folder / ADAPTER_WEIGHTS)):
        raise ModelError("the adapter has no lora_A tensors", where=str(folder / ADAPTER_WEIGHTS))


def _json(path: Path) -> dict[str, Any]:
    """A JSON mapping. Raises IntegrityError."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not valid JSON: {error}", where=str(path), remedy="fetch the model again") from error
    if not isinstance(value, dict):
        raise IntegrityError("expected a mapping", where=str(path), remedy="fetch the model again")
    return value

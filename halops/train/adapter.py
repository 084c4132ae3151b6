"""The LoRA adapter: put onto the model, cast, saved and loaded. The file is the same for the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from halops.errors import ConfigError, IntegrityError, ModelError
from halops.models.check import check_adapter_folder
from halops.sections import Lora

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
    "*.tiktoken",
)  # fmt: skip
# Families that fuse projections into one matrix: the seven usual names mean the fused one there.
FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


@dataclass(frozen=True)
class Targets:
    """Module names that get an adapter, and for each name of the profile the module it stands for."""

    names: tuple[str, ...]
    mapping: dict[str, str]


def targets(model: Any, wanted: Iterable[str]) -> Targets:
    """Resolve the profile's target_modules against what the model has.

    Raises ConfigError naming those that it hasn't, or its output head, and what is there.
    """
    head = model.get_output_embeddings()
    there = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    mapping = {name: name if name in there else FUSED.get(name, name) for name in wanted}
    problems = [
        f"lora.target_modules: {name} is not a linear layer of {type(model).__name__}, which has "
        f"{', '.join(sorted(there))}"
        for name, module in mapping.items()
        if module not in there
    ]
    if problems or not mapping:
        raise ConfigError(
            "the adapter doesn't fit the model",
            problems or ["lora.target_modules: empty"],
            remedy="the output head and the embedding can't be adapted; name linear layers of the decoder",
        )
    return Targets(tuple(sorted(set(mapping.values()))), mapping)


def add_adapter(model: Any, lora: Lora, found: Targets, dtype: torch.dtype, start: Path | None) -> Any:
    """The model under PEFT, its adapter fresh or taken from `start`, whose own rank and targets then count.

    Args:
        dtype: of the adapter's weights.
        start: folder of an own adapter, or None.

    Raises ModelError or IntegrityError if the starting adapter can't be used.
    """
    from peft import LoraConfig, get_peft_model

    if start:
        config = starting_config(start, lora)
    else:
        config = LoraConfig(
            r=lora.r,
            lora_alpha=int(lora.lora_alpha) if lora.lora_alpha == int(lora.lora_alpha) else lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            bias=lora.bias,
            target_modules=list(found.names),
            task_type=lora.task_type,
            use_rslora=lora.use_rslora,
            rank_pattern=dict(lora.rank_pattern),
            alpha_pattern=dict(lora.alpha_pattern),
        )
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(f"the adapter doesn't fit the model: {error}", where="adapter" if start else None) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if start:
        load_adapter(adapted, start)
    return adapted


def starting_config(folder: Path, lora: Lora) -> Any:
    """The LoraConfig of an own adapter, with this profile's dropout.

    Raises ModelError if it isn't plain LoRA, and what `check_adapter_folder` raises.
    """
    from peft import LoraConfig

    check_adapter_folder(folder)
    values = json.loads((folder / CONFIG).read_bytes())
    odd = [key for key in ("modules_to_save", "use_dora", "target_parameters", "lora_bias") if values.get(key)]
    if values.get("bias", "none") != "none" or odd:
        raise ModelError(
            f"the starting adapter is not plain LoRA ({', '.join(odd) or 'bias'})",
            where=CONFIG,
            remedy="start from an adapter that HALops made, or from none",
        )
    known = LoraConfig.__dataclass_fields__
    config = LoraConfig(**{key: value for key, value in values.items() if key in known and value is not None})
    config.inference_mode, config.lora_dropout, config.base_model_name_or_path = False, lora.lora_dropout, None
    return config


def save_adapter(model: Any, folder: Path, base: str = "") -> None:
    """Write the adapter's weights and config; equal weights give equal bytes.

    Args:
        base: what adapter_config.json names as its base: a URI, no local path.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.save_pretrained(str(folder))
    values = json.loads((folder / CONFIG).read_bytes())
    values |= {"base_model_name_or_path": base or None, "inference_mode": True}
    values["target_modules"] = sorted(values["target_modules"])  # PEFT holds a set, in no fixed order
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def load_adapter(model: Any, folder: Path) -> None:
    """Copy saved weights into the adapter, keeping its dtype.

    Raises IntegrityError if the file can't be read, ModelError if it has other tensors or shapes.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"the adapter's weights can't be read: {error}", where=WEIGHTS) from error
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    wrong = set(own) ^ set(state) or {name for name in own if own[name].shape != state[name].shape}
    if wrong:
        raise ModelError(
            f"the adapter is of another shape than this model's: {len(wrong)} tensors, such as {min(wrong)}",
            where=WEIGHTS,
            remedy="it must come from the same base model, with the rank and target modules that its config names",
        )
    set_peft_model_state_dict(model, state)


def copy_companions(base: Path, template: Path, folder: Path) -> None:
    """Tokenizer files byte for byte from the base (re-saving one can change its ids), and the chat template."""
    for pattern in TOKENIZER_FILES:
        for path in base.glob(pattern):
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_bytes(template.read_bytes())

"""Classic QLoRA configs: plain YAML with `quantization:`, `lora:` and `training:` sections, accepted as they are.

Other libraries' and today's names for a setting are renamed to the profile's; settings that HALops decides by
itself (where files go, what is logged, how evaluation runs) are taken out and have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# section -> {another name: the profile's name}
ALIASES: dict[str, dict[str, str]] = {
    "model": dict.fromkeys(
        ("name", "name_or_path", "model_name", "model_name_or_path", "base_model", "base", "model_id",
         "pretrained_model_name_or_path", "path"),
        "uri",
    ),
    "quantization": {
        "quant_type": "bnb_4bit_quant_type",
        "double_quant": "bnb_4bit_use_double_quant",
        "use_double_quant": "bnb_4bit_use_double_quant",
        "compute_dtype": "bnb_4bit_compute_dtype",
    },
    "lora": {
        "rank": "r",
        "lora_r": "r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "lora_target_modules": "target_modules",
        "use_rs_lora": "use_rslora",
    },
    "training": {
        "epochs": "num_train_epochs",
        "num_epochs": "num_train_epochs",
        "batch_size": "per_device_train_batch_size",
        "micro_batch_size": "per_device_train_batch_size",
        "gradient_accumulation": "gradient_accumulation_steps",
        "lr": "learning_rate",
        "lr_scheduler": "lr_scheduler_type",
        "scheduler": "lr_scheduler_type",
        "optimizer": "optim",
        "max_length": "max_seq_length",
        "model_max_length": "max_seq_length",
        "sequence_length": "max_seq_length",
        "activation_checkpointing": "gradient_checkpointing",
        "checkpoint_steps": "save_steps",
    },
    "data": {"expected_count": "expected_examples", "test_size": "heldout_fraction", "val_ratio": "heldout_fraction"},
    "serving": {"context": "ctx_size", "context_size": "ctx_size", "gpu_layers": "n_gpu_layers"},
}  # fmt: skip

# Settings that HALops decides itself; accepted in a classic file, without effect.
MANAGED: dict[str, frozenset[str]] = {
    "model": frozenset({"trust_remote_code", "torch_dtype", "dtype", "device_map", "attn_implementation", "use_cache"}),
    "lora": frozenset({"inference_mode", "fan_in_fan_out", "enabled", "peft_type", "modules_to_save"}),
    "quantization": frozenset({"load_in_8bit", "enabled", "bnb_4bit_quant_storage"}),
    "training": frozenset({
        "output_dir", "logging_dir", "report_to", "run_name", "evaluation_strategy", "eval_strategy", "eval_steps",
        "save_strategy", "logging_strategy", "logging_first_step", "per_device_eval_batch_size", "do_train", "do_eval",
        "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "dataloader_num_workers",
        "dataloader_pin_memory", "remove_unused_columns", "group_by_length", "ddp_find_unused_parameters",
        "overwrite_output_dir", "push_to_hub", "hub_model_id", "dataset_text_field", "packing", "tf32",
        "save_safetensors",
        "gradient_checkpointing_kwargs", "disable_tqdm", "use_liger_kernel", "dataset_num_proc", "data_seed",
        "resume_from_checkpoint", "dataset_kwargs", "assistant_only_loss", "completion_only_loss",
    }),
}  # fmt: skip

# A value that asks for something HALops doesn't do: accepting it in silence would change the result.
REFUSED: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "model": {"trust_remote_code": (bool, "HALops runs no code from a model's folder: remove it")},
    "lora": {"modules_to_save": (bool, "whole modules can't be merged: leave it out")},
    "quantization": {"load_in_8bit": (bool, "8-bit bases are not supported: use load_in_4bit")},
    "training": {
        "packing": (bool, "rows are packed by HALops where it is safe: leave it out"),
    },
}

# Top-level keys of flat configs, moved into their section.
FLAT: dict[str, str] = dict.fromkeys(
    ("base_model", "model_name", "model_name_or_path", "pretrained_model_name_or_path", "model_id"), "model"
)


def normalise(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Rename and take out what the module's tables say. Unknown keys stay, for validation to name them.

    Args:
        raw: a mapping of sections, as read from YAML.
        problems: gets a line for each setting that is given twice or can't be honoured.
    """
    result: dict[str, Any] = {}
    for key, value in raw.items():
        section = FLAT.get(str(key))
        if section:
            result.setdefault(section, {})["uri"] = value
        elif key == "model" and isinstance(value, str):
            result.setdefault("model", {})["uri"] = value
        elif isinstance(value, Mapping):
            result.setdefault(str(key), {}).update(_section(str(key), value, problems))
        else:
            result[str(key)] = {} if value is None and key in ALIASES else value
    _model_uri(result)
    _milestones(result.get("training"))
    return result


def _section(name: str, values: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        refuse = REFUSED.get(name, {}).get(str(key))
        if refuse and refuse[0](value):
            problems.append(f"{name}.{key}: {refuse[1]}")
            continue
        if key in MANAGED.get(name, ()):
            continue
        target = ALIASES.get(name, {}).get(str(key), str(key))
        if target in result and result[target] != value:
            problems.append(f"{name}.{key}: {name}.{target} is given twice, with different values")
        result[target] = value
    return result


def _model_uri(result: dict[str, Any]) -> None:
    """A bare `org/name` means the hub."""
    model = result.get("model")
    if isinstance(model, dict) and isinstance(uri := model.get("uri"), str):
        local = uri.startswith((".", "/", "~"))
        if "://" not in uri:
            model["uri"] = f"file://{uri}" if local else f"hf://{uri}"


def _milestones(training: Any) -> None:
    """Today's `warmup_steps: 0.1` is the classic `warmup_ratio`; `max_steps: -1` means not set."""
    if not isinstance(training, dict):
        return
    steps = training.get("warmup_steps")
    if isinstance(steps, float) and 0 <= steps < 1:
        training["warmup_ratio"] = training.pop("warmup_steps")
    elif steps == 0:
        del training["warmup_steps"]
    if training.get("max_steps") in (-1, 0):
        del training["max_steps"]

"""A profile's training section under the names that the installed transformers gives them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from halops.errors import ConfigError
from halops.profile import Profile
from halops.sections import Cluster, Training

# Optimizers of transformers that need no further package. The rest of its list asks for one.
OPTIMIZERS = frozenset({
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit",
    "lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit", "ademamix", "ademamix_8bit",
    "paged_ademamix_32bit", "paged_ademamix_8bit", "adafactor", "sgd", "adagrad", "rmsprop",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
})  # fmt: skip
CPU_OPTIMIZERS = frozenset({"adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"})
CLASSIC_OPTIMIZERS = {"adamw": "adamw_torch", "adamw_hf": "adamw_torch", "paged_adamw": "paged_adamw_32bit"}
# Schedules that need nothing but the number of steps and of warm-up steps.
SCHEDULES = frozenset({
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
})  # fmt: skip


# Seconds that a process waits for another one: as long as loading a large base from a slow disk may differ.
PEER_SECONDS = 1800


def processes(cluster: Cluster) -> int:
    """Training processes that a profile asks for: one for each GPU of each node."""
    return max(1, cluster.gpu.count) * cluster.nodes


def share(training: Training, count: int) -> int:
    """Rows of an optimizer step for each of `count` processes; together they make the profile's effective batch.

    Raises ConfigError if it can't be shared.
    """
    rows = rows_per_step(training)
    if rows % count:
        fitting = -(-rows // count) * count
        raise ConfigError(
            f"a step of {rows} rows can't be shared evenly by {count} processes",
            [
                f"training.per_device_train_batch_size {training.per_device_train_batch_size} x "
                f"training.gradient_accumulation_steps {training.gradient_accumulation_steps} "
                f"= {rows} rows, on cluster.gpu.count x cluster.nodes = {count} processes"
            ],
            remedy=f"take a multiple of {count}: --set training.per_device_train_batch_size=1 "
            f"--set training.gradient_accumulation_steps={fitting}",
        )
    return rows // count


def optimizer(training: Training, cuda: bool) -> str:
    """The optimizer's name in transformers; on a CPU, AdamW for those that only CUDA has."""
    name = CLASSIC_OPTIMIZERS.get(training.optim, training.optim)
    return name if cuda or name in CPU_OPTIMIZERS else "adamw_torch"


def check_names(training: Training) -> None:
    """Raise ConfigError for an optimizer or schedule that isn't there, naming those that are."""
    problems = []
    if CLASSIC_OPTIMIZERS.get(training.optim, training.optim) not in OPTIMIZERS:
        problems.append(f"training.optim: no {training.optim!r}; there are {', '.join(sorted(OPTIMIZERS))}")
    if training.lr_scheduler_type not in SCHEDULES:
        problems.append(
            f"training.lr_scheduler_type: no {training.lr_scheduler_type!r}; there are {', '.join(sorted(SCHEDULES))}"
        )
    if problems:
        raise ConfigError("the training section can't be used", problems)


def training_arguments(
    profile: Profile,
    output: Path | str,
    cuda: bool,
    checkpointing: bool | None = None,
    fields: Collection[str] | None = None,
    count: int = 1,
) -> dict[str, Any]:
    """Keyword arguments of transformers.TrainingArguments.

    bf16 stays off here even where the profile asks for it: the weights are bfloat16 themselves, so autocast would only
    add casts, and bring fp32 copies. fp16 keeps the adapter in fp32 and needs autocast and the loss scaler.
    A batch is a process's share of a whole optimizer step: `halops.train.packing` cuts it up by tokens, not by rows.

    Args:
        output: folder for the Trainer's own checkpoints.
        checkpointing: whether the Trainer checkpoints every layer; the profile's own wish if None.
        fields: the names that TrainingArguments has; those of the installed transformers if None.
        count: processes that train together.

    Raises ConfigError.
    """
    training = profile.training
    check_names(training)
    names = fields if fields is not None else installed_fields()
    return {
        "output_dir": str(output),
        "per_device_train_batch_size": share(training, count),
        "gradient_accumulation_steps": 1,
        "num_train_epochs": training.num_train_epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        # transformers 5 reads a number below 1 as the share of all steps, and has no other name for it
        ("warmup_ratio" if "warmup_ratio" in names else "warmup_steps"): training.warmup_ratio,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "optim": optimizer(training, cuda),
        "seed": training.seed,
        "bf16": False,
        "fp16": training.fp16 and cuda,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "logging_strategy": "no",  # halops.train.callbacks logs
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        **_checkpointing(training.gradient_checkpointing if checkpointing is None else checkpointing, names),
        **(_together(cuda) if count > 1 else {}),
    }


def _together(cuda: bool) -> dict[str, Any]:
    """The loss is a mean over the tokens of all processes; every weight of the adapter is used in every pass."""
    return {
        "average_tokens_across_devices": True,
        "ddp_backend": "nccl" if cuda else "gloo",
        "ddp_find_unused_parameters": False,
        "ddp_timeout": PEER_SECONDS,
    }


def _checkpointing(wanted: bool, names: Collection[str]) -> dict[str, Any]:
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False} if wanted else None}


def installed_fields() -> frozenset[str]:
    """Names that the installed transformers.TrainingArguments takes."""
    from transformers import TrainingArguments

    return frozenset(field.name for field in dataclasses.fields(TrainingArguments))


def rows_per_step(training: Training) -> int:
    """The effective batch: rows of one optimizer step, of all processes together."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def steps_per_epoch(training: Training, rows: int) -> int:
    """Optimizer steps of one epoch, a smaller one at its end included."""
    return -(-rows // rows_per_step(training))


def total_steps(training: Training, rows: int) -> int:
    """Optimizer steps of the whole training, as the Trainer counts them."""
    return training.max_steps or math.ceil(training.num_train_epochs * steps_per_epoch(training, rows))

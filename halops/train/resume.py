"""Our own part of a checkpoint, and whether a checkpoint belongs to this training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from halops.artifact import sha256_file
from halops.errors import ConfigError
from halops.stages.context import StageContext
from halops.train.arguments import rows_per_step
from halops.train.history import Record
from halops.train.trainer import STATE


@dataclass(frozen=True)
class Resume:
    """Where to go on from: a checkpoint folder, and what was known when it was saved."""

    step: int
    folder: Path
    records: tuple[Record, ...]
    watch: dict[str, Any]
    heldout_loss_base: float | None


def find_resume(context: StageContext) -> Resume | None:
    """The newest valid checkpoint, or None. Raises ConfigError if it was made by another training."""
    found = context.checkpoints.newest() if context.checkpoints else None
    if not found:
        return None
    step, folder = found
    try:
        state = json.loads((folder / STATE).read_bytes())
        _compare(state["identity"], identity(context), folder)
        records = tuple(Record(**line) for line in state["history"])
        return Resume(step, folder, records, state["watch"], state["heldout_loss_base"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"not a checkpoint that HALops can read: {error}", where=str(folder)) from error


def state_of(
    context: StageContext, records: list[Record], watch: dict[str, Any], heldout_loss_base: float | None
) -> dict[str, Any]:
    """What `find_resume` reads back."""
    return {
        "identity": identity(context),
        "history": [asdict(record) for record in records],
        "watch": watch,
        "heldout_loss_base": heldout_loss_base,
    }


def identity(context: StageContext) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from; micro-batches and limits may differ."""
    training = context.spec.profile.training
    return {
        "base": context.spec.base.uri,
        "rows": sha256_file(context.inputs / "data" / "train.jsonl"),
        "lora": context.spec.profile.lora.model_dump(mode="json"),
        "length": training.max_steps or f"{training.num_train_epochs:g} epochs",
        "rows_per_step": rows_per_step(training),
        "seed": training.seed,
        "optimizer": training.optim,
        "schedule": [training.lr_scheduler_type, training.learning_rate, training.warmup_ratio],
    }


def _compare(there: dict[str, Any], here: dict[str, Any], folder: Path) -> None:
    other = [
        f"{key}: {there.get(key)!r} there, {value!r} here" for key, value in here.items() if there.get(key) != value
    ]
    if other:
        raise ConfigError(
            "the checkpoint belongs to another training",
            other,
            where=str(folder),
            remedy="use its settings and data; or begin anew from its weights: --set model.adapter=file://FOLDER",
        )

"""transformers' Trainer for one LoRA adapter: its own order of rows, its own saving, its own counters.

Plain Trainer rather than TRL's SFTTrainer, after reading both. SFTTrainer 1.16 replaces the head's forward pass by one
that on a CPU projects every position, trained on or not, and computes entropy and accuracy for each; casts the adapter
to bfloat16 whatever computes it; reports usage to the hub; and its predecessors of the same major version differ in all
of this. From TRL comes the offloading of activations to host memory.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer

from halops.stages.context import Checkpoints
from halops.train.adapter import load_adapter, save_adapter
from halops.train.rows import Rows, StepsOfLikeLength

STATE = "halops.json"  # our own part of a checkpoint


class LoraTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Trains a PEFT model whose forward pass returns its loss (halops.train.head).

    Args:
        checkpoints: who keeps finished checkpoints.
        export: returns our own state, stored with each checkpoint.
        rows_per_step: rows of one optimizer step whose lengths should be alike; 1 for a plain shuffle.
        offload: keep activations in host memory.
    """

    def __init__(
        self,
        *args: Any,
        checkpoints: Checkpoints,
        export: Callable[[], dict[str, Any]],
        rows_per_step: int,
        offload: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self.args._n_gpu = min(1, self.args.n_gpu)  # one process trains on one GPU, whatever else is visible
        self._checkpoints, self._export, self._rows_per_step = checkpoints, export, rows_per_step
        self._offload = activation_offload(self.model) if offload else contextlib.nullcontext()
        self.grad_norm: Any = 0.0
        self._step_loss: list[torch.Tensor] = []
        self._step_tokens: list[torch.Tensor] = []

    def take_loss(self) -> float:
        """Loss of the step in hand, the sum over its micro-batches; waits for the GPU."""
        losses, self._step_loss = self._step_loss, []
        return float(torch.stack(losses).sum())

    def take_tokens(self) -> int:
        """Non-padding tokens since this was last called."""
        lengths, self._step_tokens = self._step_tokens, []
        return sum(int(part.sum()) for part in lengths)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        self._step_tokens.append(inputs.pop("lengths"))
        with self._offload:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self.grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self.grad_norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Rows = train_dataset or self.train_dataset
        return StepsOfLikeLength(rows.lengths, self._rows_per_step, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter alone, as safetensors; no pickled arguments, no model card."""
        save_adapter(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_adapter(self.model, Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Adapter, optimizer, schedule, random states and our own state; then hand the folder over."""
        super()._save_checkpoint(model, trial)
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        (folder / STATE).write_text(json.dumps({"step": step, **self._export()}))
        self._checkpoints.save(step, folder)
        shutil.rmtree(folder)


def activation_offload(model: Any) -> Any:
    """A context in which activations wait for the backward pass in host memory."""
    from trl.models.activation_offloading import get_act_offloading_ctx_manager

    return get_act_offloading_ctx_manager(model, warn_if_no_head=False)

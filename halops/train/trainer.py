"""transformers' Trainer for one LoRA adapter: its own order of rows, its own saving, its own counters.

Plain Trainer rather than TRL's SFTTrainer, after reading both. SFTTrainer 1.16 replaces the head's forward pass by one
that on a CPU projects every position, trained on or not, and computes entropy and accuracy for each; casts the adapter
to bfloat16 whatever computes it; reports usage to the hub; and its predecessors of the same major version differ in all
of this. From TRL comes the offloading of activations to host memory, where layers aren't fused.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from halops.errors import ConfigError
from halops.stages.context import Checkpoints
from halops.train.adapter import load_adapter, save_adapter
from halops.train.flat import Flat, flatten
from halops.train.rows import Rows, SharedSteps, StepsOfLikeLength
from halops.train.walks import shorten_walks
from halops.train.world import ALONE, World

STATE = "halops.json"  # our own part of a checkpoint


class LoraTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Trains a PEFT model whose forward pass returns its loss (halops.train.head).

    Args:
        checkpoints: who keeps finished checkpoints.
        export: returns our own state, stored with each checkpoint.
        rows_per_step: rows of one optimizer step, of all processes together.
        alike: whether their lengths should be alike; otherwise a plain shuffle.
        offload: let activations wait in host memory, of a family's own layers: fused ones do that themselves.
        world: the processes that train together.
    """

    def __init__(
        self,
        *args: Any,
        checkpoints: Checkpoints,
        export: Callable[[], dict[str, Any]],
        rows_per_step: int,
        alike: bool,
        offload: bool = False,
        world: World = ALONE,
        **kwargs: Any,
    ) -> None:
        given = kwargs["args"]
        given._n_gpu = min(1, given.n_gpu)  # one process trains on one GPU; each that is visible would widen the batch
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self._checkpoints, self._export, self.world = checkpoints, export, world
        self._rows_per_step, self._alike = rows_per_step, alike
        self._offload = activation_offload(self.model) if offload else contextlib.nullcontext()
        self.grad_norm: Any = 0.0
        self._flat: Flat | None = None
        self._trained = shorten_walks(self.model)
        if world.size > 1:
            share_adapter_only(self.model)
            torch.manual_seed(self.args.seed + world.rank)  # of dropout: each process drops its own
        self._step_loss: Any = 0.0
        self._step_tokens = 0

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self.train_dataset) // self._rows_per_step)

    def epoch(self, step: int) -> float:
        """Epochs done after so many optimizer steps, however they are cut up."""
        whole, steps = divmod(step, self._steps_per_epoch)
        return whole + steps * self._rows_per_step / len(self.train_dataset)

    def take_loss(self) -> float:
        """Loss of the step in hand, the sum over its micro-batches; waits for the GPU, and for the other processes."""
        # Each process's losses are scaled by their number, since DDP takes the mean of gradients.
        return self.world.sum(float(self._step_loss))[0] / self.world.size

    def take_tokens(self) -> int:
        """Non-padding tokens of all processes since this was last called."""
        tokens, self._step_tokens = self._step_tokens, 0
        return int(self.world.sum(tokens)[0])

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """A whole optimizer step: forward and backward of each micro-batch, gradients shared once, at the last."""
        self._step_tokens += inputs["tokens"]
        parts, losses = inputs["micro_batches"], []
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model), self._offload:
                losses.append(super().training_step(model, part, num_items_in_batch))
        self._step_loss = torch.stack(losses).sum()
        return self._step_loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Trained tokens of the step, of all processes: what its loss is divided by."""
        (count,) = self.world.sum(sum(step["trained"] for step in batch_samples))
        return torch.tensor(max(1.0, count), device=device)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The profile's; one of bitsandbytes' takes the adapter in one piece."""
        if self.optimizer is None:
            super().create_optimizer(*args, **kwargs)
            if not self.args.fp16:  # fp16's loss scaler looks for the gradients itself
                self._flat = flatten(self.optimizer)
        return self.optimizer

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The Trainer's own count isn't used, and wants plain batches."""
        return 0

    def _clip_grad_norm(self, model: Any) -> Any:
        """Over what is trained: the Trainer goes through the whole model for it, twice."""
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """After clipping, and before the loss is waited for: the last moment at which the GPU is still at work."""
        self.grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self._flat:
            self._flat.gather()
        return self.grad_norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Rows = train_dataset or self.train_dataset
        return StepsOfLikeLength(rows.lengths, self._rows_per_step if self._alike else 1, self.args.seed)

    def get_train_dataloader(self) -> Any:
        """Each of several processes gets its part of every step; accelerate's sharding would repeat rows at the end."""
        if self.world.size == 1:
            return super().get_train_dataloader()
        steps = SharedSteps(self._get_train_sampler(), self._rows_per_step, self.world.rank, self.world.size)
        self.add_callback(Epochs(steps, self._steps_per_epoch))
        pinned = self.args.dataloader_pin_memory
        return DataLoader(self.train_dataset, batch_sampler=steps, collate_fn=self.data_collator, pin_memory=pinned)

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
        if self.world.first:
            (folder / STATE).write_text(json.dumps({"step": step, **self._export()}))
            self._checkpoints.save(step, folder)
        shutil.rmtree(folder, ignore_errors=True)
        self.world.wait()  # nobody ends before it is handed over: one that ends stops the others

    def _save_rng_state(self, output_dir: str) -> None:
        """Random states of all processes, in the first one's folder."""
        super()._save_rng_state(output_dir)
        if self.world.size == 1:
            return
        name = "rng_state_{}.pth"
        states = self.world.gather((Path(output_dir) / name.format(self.world.rank)).read_bytes())
        if self.world.first:
            for rank, state in enumerate(states):
                (Path(output_dir) / name.format(rank)).write_bytes(state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The Trainer loads a process's optimizer right onto its GPU, where bitsandbytes' mark of paged memory lies."""
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:  # its parameters are laid out otherwise: by another version, or for another device
            raise ConfigError(
                f"the checkpoint's optimizer state doesn't fit this training's: {error}",
                where=checkpoint,
                remedy="begin anew from its weights: --set model.adapter=file://FOLDER",
            ) from error
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if getattr(value, "is_paged", False):
                    state[name] = value.clone()  # without the mark: prefetching it would end the process


class Epochs(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Tells the order of rows which epoch begins: the Trainer doesn't reach a sampler that it didn't make."""

    def __init__(self, steps: SharedSteps, steps_per_epoch: int) -> None:
        self.steps, self.steps_per_epoch = steps, steps_per_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.set_epoch(state.global_step // self.steps_per_epoch)


def share_adapter_only(model: Any) -> None:
    """Leave the frozen base out of what DDP sends around: every process has read and verified its own."""
    from torch.nn.parallel import DistributedDataParallel

    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model, [*frozen, *buffers])


def activation_offload(model: Any) -> Any:
    """A context in which activations wait for the backward pass in host memory.

    Two tensors stay until their copies are done: layers that are computed again keep little but their input.
    """
    from trl.models.activation_offloading import get_act_offloading_ctx_manager

    return get_act_offloading_ctx_manager(model, max_fwd_stash_size=2, warn_if_no_head=False)

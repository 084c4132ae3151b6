"""Watches each optimizer step: logs it, warns of gradient spikes, stops on NaN, saves and stops when told to."""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections import deque
from typing import Any

import torch
from transformers import TrainerCallback

from halops.errors import StageError
from halops.process import peak_rss_bytes
from halops.progress import Progress
from halops.train.history import History, Record

log = logging.getLogger("halops.train")

SPIKE = 5.0  # a gradient norm of so many running medians is worth a warning
WINDOW = 50  # steps of the running median
FEWEST = 5  # steps before which a median means little


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer's callback. Reads `step_loss`, `step_tokens` and `grad_norm` off the trainer.

    Args:
        every: steps between two records.
        stop: set when the process should end; the step in hand is finished and saved first.
        state: what `export` returned at the checkpoint that this attempt goes on from.
    """

    def __init__(
        self,
        history: History,
        progress: Progress,
        stop: threading.Event,
        every: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.history, self.progress, self.stop, self.every = history, progress, stop, every
        self.trainer: Any = None  # set once the trainer exists
        self.interrupted = False
        self.losses: list[float] = list(state["losses"]) if state else []
        self.norms: deque[float] = deque(state["norms"] if state else (), maxlen=WINDOW)
        self.tokens, self.seconds = 0, 0.0  # since the last record
        self.all_tokens, self.all_seconds = 0, 0.0  # of this attempt
        self._began = 0.0
        self._rate = 0.0

    def export(self) -> dict[str, Any]:
        """What another attempt needs to go on with the same records."""
        return {"losses": self.losses, "norms": list(self.norms)}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the weights change: the loss and the gradient of this step must be numbers."""
        loss, norm = self.trainer.take_loss(), float(self.trainer.grad_norm)
        self._rate = kwargs["optimizer"].param_groups[0]["lr"]
        step = state.global_step + 1
        scaled = self.trainer.accelerator.scaler is not None  # fp16: its scaler skips a step that overflows
        if not math.isfinite(loss) or not (math.isfinite(norm) or scaled):
            raise StageError(
                f"training diverged: at step {step} the loss is {loss}, the gradient norm {norm}",
                where=f"step {step} of {state.max_steps}",
                remedy="the last checkpoint is kept; lower training.learning_rate "
                f"(it is {args.learning_rate:g}) or training.max_grad_norm, and look at the rows of that step",
            )
        if math.isfinite(norm):
            self._check_spike(step, norm)
        self.losses.append(loss)

    def _check_spike(self, step: int, norm: float) -> None:
        if len(self.norms) >= FEWEST and norm > SPIKE * (usual := statistics.median(self.norms)):
            text = f"gradient norm {norm:.3g} at step {step}, {norm / max(usual, 1e-12):.0f} times its running median"
            log.warning("%s", text)
            self.progress(f"warning: {text}", step=step, grad_norm=norm)
        self.norms.append(norm)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds, tokens = time.monotonic() - self._began, self.trainer.take_tokens()
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        self.all_seconds, self.all_tokens = self.all_seconds + seconds, self.all_tokens + tokens
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._record(state)
        if self.trainer.world.any(self.stop.is_set()) and state.global_step < state.max_steps:
            self.interrupted = control.should_save = control.should_training_stop = True

    def _record(self, state: Any) -> None:
        record = Record(
            step=state.global_step,
            epoch=round(self.trainer.epoch(state.global_step), 6),
            loss=sum(self.losses) / len(self.losses),
            learning_rate=self._rate,
            grad_norm=self.norms[-1] if self.norms else 0.0,
            tokens_per_second=round(self.tokens / max(self.seconds, 1e-9), 1),
            memory_bytes=peak_memory(),
        )
        self.history.add(record)
        self.losses, self.tokens, self.seconds = [], 0, 0.0
        self.progress(
            "training",
            done=record.step,
            total=state.max_steps,
            unit="steps",
            step=record.step,
            total_steps=state.max_steps,
            loss=round(record.loss, 4),
            learning_rate=record.learning_rate,
            grad_norm=round(record.grad_norm, 4),
            tokens_per_second=record.tokens_per_second,
            memory_bytes=record.memory_bytes,
        )


def peak_memory() -> int:
    """Peak memory in bytes: what CUDA allocated, or this process's resident set."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss_bytes()

"""Times optimizer steps of any transformers Trainer, then profiles some more for the time that the GPU was busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from bench.train.timeline import covered, ran, top


class Meter(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Attach to a Trainer; whoever feeds it counts its tokens with `add`.

    Args:
        warm: steps before the timed ones.
        timed: steps that count.
        profiled: steps after them; where steps differ they should be the timed ones' rows once more, since a step
            keeps the GPU busy for longer a token if it has fewer.
        alone: called before the last of the steps to warm up, LAST of them: until then others may run beside it.
    """

    LAST = 2

    def __init__(self, warm: int, timed: int, profiled: int = 1, alone: Callable[[], None] | None = None) -> None:
        self.warm, self.timed, self.profiled, self.alone = warm, timed, profiled, alone
        self._tokens: list[
            Any
        ] = []  # of the step in hand, padding left out; numbers or tensors, summed when it is over
        self.seconds: list[float] = []
        self.counted: list[int] = []
        self.busy_seconds = 0.0
        self.busy_tokens = 0
        self.losses: list[float] = []
        self._profile: Any = None
        self._began = 0.0

    @property
    def steps(self) -> int:
        """Steps to train in all."""
        return self.warm + self.timed + self.profiled

    def add(self, tokens: Any) -> None:
        """A micro-batch's tokens; a tensor isn't looked at before the step is over: that would wait for the GPU."""
        self._tokens.append(tokens)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.alone and state.global_step == max(0, self.warm - self.LAST):
            _wait()
            self.alone()
        if state.global_step == self.warm:
            _reset_peaks()
        if state.global_step == self.warm + self.timed and torch.cuda.is_available():
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profile.start()
        self._tokens = []
        _wait()
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _wait()
        took = time.perf_counter() - self._began
        tokens = sum(int(item) for item in self._tokens)
        if self._profile:
            self.busy_tokens += tokens
            if state.global_step == self.steps:
                self._profile.stop()
                kernels, self._profile = ran(self._profile), None
                self.busy_seconds, self.kernels = covered(kernels) / 1e6, top(kernels)
        elif self.warm < state.global_step <= self.warm + self.timed:
            self.seconds.append(took)
            self.counted.append(tokens)

    def result(self) -> dict[str, Any]:
        """What a cell's line says of this process."""
        rates = sorted(tokens / seconds for tokens, seconds in zip(self.counted, self.seconds, strict=True))
        cuda = torch.cuda.is_available()
        busy = 1e3 * self.busy_seconds / self.busy_tokens if self.busy_tokens else None
        return {
            "tokens_per_second": rates[len(rates) // 2],
            "step_tokens": self.counted,
            "step_seconds": [round(item, 4) for item in self.seconds],
            "busy_ms_per_token": busy,
            "wall_over_busy": 1e3 * sum(self.seconds) / sum(self.counted) / busy if busy else None,
            "peak_allocated": torch.cuda.max_memory_allocated() if cuda else 0,
            "peak_reserved": torch.cuda.max_memory_reserved() if cuda else 0,
            "kernels": getattr(self, "kernels", []),
        }


def limit_memory(gib: float) -> None:
    """Let this process take so much of the GPU; 0 for all of it."""
    if gib and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peaks() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

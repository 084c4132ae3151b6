"""Where the GPU waits for its host in our own steps: the longest gaps between its kernels, and what came after them.

    python -m bench.train.idle --base FOLDER --cell short

Each step after the warm-up is profiled by itself, by its kernels and copies alone: the host isn't slowed down for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from bench.train.cells import CELLS, vocabulary
from bench.train.meter import limit_memory
from bench.train.ours import sets, trainer_for
from bench.train.timeline import Ran, gaps, ran, within


def said(kernels: list[Ran], tokens: int, wall: float, longest: int) -> str:
    """A step in words: how long it waited in all, the longest gaps, and gaps by what came after.

    Args:
        wall: milliseconds of the host's clock.
    """
    found, sums = gaps(kernels), defaultdict[str, float](float)
    for gap in found:
        sums[gap.after[:50]] += gap.length / 1e3
    idle = sum(sums.values())
    lines = [f"{tokens} tokens: {wall:.1f} ms, kernels within {within(kernels) / 1e3:.1f}, of which {idle:.1f} idle"]
    for gap in sorted(found, reverse=True)[:longest]:
        lines.append(f"  {gap.length / 1e3:6.2f} ms at {gap.at / 1e3:6.1f}  {gap.before[:50]} -> {gap.after[:50]}")
    largest = sorted(sums.items(), key=lambda item: -item[1])[:longest]
    return "\n".join([*lines, "  before: " + ", ".join(f"{name} {took:.1f}" for name, took in largest)])


class Watcher(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Prints what each step after the first `warm` waits for, its optimizer included."""

    def __init__(self, warm: int, longest: int) -> None:
        self.warm, self.longest, self.tokens = warm, longest, 0
        self._profile: Any = None
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.warm:
            torch.cuda.synchronize()
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profile.start()
            self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profile:
            torch.cuda.synchronize()
            wall = 1e3 * (time.perf_counter() - self._began)
            self._profile.stop()
            print(said(ran(self._profile), self.tokens, wall, self.longest), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train.idle", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--cell", default="short", choices=list(CELLS))
    parser.add_argument("--cap", type=float, default=7.5, help="GiB; 0 for the whole card")
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--longest", type=int, default=8, help="how many gaps of a step to print")
    options = parser.parse_args()
    limit_memory(options.cap)
    cell = CELLS[options.cell]
    with tempfile.TemporaryDirectory() as name:
        given = sets(cell, options.warm + options.steps, 0.0)
        _, trainer, _ = trainer_for(Path(name), options.base, cell, vocabulary(options.base), given)
        watcher, counted = Watcher(options.warm, options.longest), trainer.training_step

        def step(model: Any, batch: Any, *rest: Any) -> Any:
            watcher.tokens = batch["tokens"]
            return counted(model, batch, *rest)

        trainer.training_step = step
        trainer.add_callback(watcher)
        trainer.train()
    return 0


if __name__ == "__main__":
    sys.exit(main())

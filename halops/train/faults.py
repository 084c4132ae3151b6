"""Foreign errors of training, translated at one seam; and the one that a test can plant.

A machine without a GPU never runs out of its memory. So that the ladder can be tested there,
`HALOPS_TEST_FAULT=cuda_oom:RUNG` raises torch's own error in the second step of every attempt on that rung or one
above. Nothing but tests sets it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from halops.errors import ConfigError, GpuMemoryError, HostError, IntegrityError
from halops.names import ENV_TEST_FAULT
from halops.planner.settings import MemorySettings

# CUDA libraries report a failed allocation in words of their own.
CUDA_WORDS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)
HOST_WORDS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
DISK_WORDS = ("PytorchStreamWriter failed", "No space left on device")


@dataclass
class Tried:
    """What an attempt at training tries, for the message; None until it is known."""

    settings: MemorySettings | None = None


@contextmanager
def translated() -> Iterator[Tried]:
    """Raise GpuMemoryError for CUDA out of memory, HostError for host memory or disk, IntegrityError for a pickle."""
    tried = Tried()
    try:
        yield tried
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            "a checkpoint holds more than tensors, and is not read",
            where=str(error).split("\n")[0][:200],
            remedy="delete the checkpoint; training goes on from the one before",
        ) from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in CUDA_WORDS):
            raise _gpu(tried.settings) from error
        if any(words in text for words in HOST_WORDS):
            raise HostError(
                "out of host memory",
                remedy="close other programs, or take shorter rows: --set training.max_seq_length=512",
            ) from error
        if any(words in text for words in DISK_WORDS):
            raise HostError("the disk is full", remedy="free some space and run again; checkpoints are kept") from error
        raise


def _gpu(tried: MemorySettings | None) -> GpuMemoryError:
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    return GpuMemoryError(
        f"out of GPU memory: {peak:.2f} GiB allocated at the peak, of the card's {total:.1f} GiB",
        where=str(tried) if tried else "while loading the base",
        remedy="the next attempt takes fewer tokens at a time; or --set training.max_seq_length=512, "
        "or close what else uses the card (`nvidia-smi`)",
    )


def planted(rung: int) -> list[Any]:
    """The callback that plants what HALOPS_TEST_FAULT asks for on this rung, if anything. Raises ConfigError."""
    wanted = os.environ.get(ENV_TEST_FAULT)
    if not wanted:
        return []
    kind, _, last = wanted.partition(":")
    if kind != "cuda_oom" or not last.isdecimal():
        raise ConfigError(f"no such fault: {wanted!r}", where=ENV_TEST_FAULT, remedy="cuda_oom:RUNG")
    return [_out_of_memory()] if rung <= int(last) else []


def _out_of_memory() -> Any:
    from transformers import TrainerCallback

    class OutOfMemory(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                raise torch.OutOfMemoryError("CUDA out of memory (planted by a test)")

    return OutOfMemory()

"""Foreign errors of training, translated at one seam."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from halops.errors import GpuMemoryError, HostError, IntegrityError
from halops.train.arguments import Rung

# CUDA libraries report a failed allocation in words of their own.
CUDA_WORDS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)
HOST_WORDS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
DISK_WORDS = ("PytorchStreamWriter failed", "No space left on device")


@contextmanager
def translated(rung: Rung) -> Iterator[None]:
    """Raise GpuMemoryError for CUDA out of memory, HostError for host memory or disk, IntegrityError for a pickle.

    Args:
        rung: what was tried, for the message.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            "a checkpoint holds more than tensors, and is not read",
            where=str(error).split("\n")[0][:200],
            remedy="delete the checkpoint; training goes on from the one before",
        ) from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in CUDA_WORDS):
            raise _gpu(rung) from error
        if any(words in text for words in HOST_WORDS):
            raise HostError(
                "out of host memory", remedy="close other programs, or --set training.per_device_train_batch_size=1"
            ) from error
        if any(words in text for words in DISK_WORDS):
            raise HostError("the disk is full", remedy="free some space and run again; checkpoints are kept") from error
        raise


def _gpu(rung: Rung) -> GpuMemoryError:
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    return GpuMemoryError(
        f"out of GPU memory: {peak:.2f} GiB allocated at the peak, of the card's {total:.1f} GiB",
        where=f"{rung.micro_batch} rows at a time, {rung.accumulation} times a step"
        + (", activations in host memory" if rung.offload_activations else ""),
        remedy="the next attempt takes smaller micro-batches; or --set training.max_seq_length=512, "
        "or close what else uses the card (`nvidia-smi`)",
    )

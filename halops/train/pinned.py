"""Host memory that the GPU reads and writes by itself, without the host's waiting for it."""

from __future__ import annotations

import contextlib
import logging
import mmap
import weakref
from typing import Any

import torch
from torch import Tensor

from halops.errors import HostError
from halops.units import human_bytes

log = logging.getLogger("halops.train")


class Pinned:
    """So many bytes on pages of their own: `bytes` [size] uint8.

    Args:
        cuda: whether to pin them: until the object is gone.

    Raises HostError where the host gives no more.
    """

    def __init__(self, size: int, cuda: bool) -> None:
        try:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise HostError(
                f"the host has no {human_bytes(size)} for activations: {error}",
                remedy="less of it: --set training.host_memory_gib=N",
            ) from error
        self.bytes: Tensor = torch.frombuffer(pages, dtype=torch.uint8)
        if cuda and pin(self.bytes, "activations"):
            weakref.finalize(self, unpin, self.bytes).atexit = False  # CUDA may be gone by then


def pin(memory: Tensor, what: str) -> bool:
    """Let the GPU see memory where it lies; torch's `pin_memory` would copy it to the next power of two of bytes.
    False, with a warning, where the driver doesn't."""
    cudart: Any = torch.cuda.cudart
    failed = int(cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    if failed:
        log.warning("host memory for %s can't be pinned (CUDA error %d): each micro-batch waits for it", what, failed)
        with contextlib.suppress(RuntimeError):  # CUDA tells the next kernel's launch of the same error
            torch.zeros(1, device="cuda")
    return not failed


def unpin(memory: Tensor) -> None:
    """Undo `pin`, once nothing is on its way."""
    torch.cuda.synchronize()
    cudart: Any = torch.cuda.cudart
    cudart().cudaHostUnregister(memory.data_ptr())

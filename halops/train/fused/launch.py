"""Where a kernel runs: Triton on CUDA, its torch reference on a CPU, nothing but the output's shape on `meta`."""

from __future__ import annotations

import os

from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own interpreter, by which tests run kernels on a CPU


def by_triton(tensor: Tensor) -> bool:
    """Whether a kernel of ours takes this tensor."""
    return tensor.is_cuda or (INTERPRETED and tensor.device.type == "cpu")


def power_of_two(number: int) -> int:
    """The next one, `number` itself included."""
    return 1 << max(0, number - 1).bit_length()

"""Dropout whose mask is a function of a seed: made again in the backward pass instead of being kept."""

from __future__ import annotations

import torch
from torch import Tensor

from halops.train.fused.launch import by_triton


def draw_seeds(count: int) -> list[int]:
    """So many seeds, off torch's own random state on the CPU: it is in every checkpoint."""
    return torch.randint(0, 2**31 - 1, (count,)).tolist()


def drop(x: Tensor, p: float, seed: int) -> Tensor:
    """x [T, N] with a share p of its elements zero, the others divided by 1 - p; rows of x may lie apart."""
    if x.is_meta:
        return x.new_empty(x.shape)
    if by_triton(x):
        from halops.train.fused import dropout_triton

        out = x.new_empty(x.shape)
        dropout_triton.drop(x, out, p, seed)
        return out
    return x * _mask(x, p, seed)


def add_dropped_(into: Tensor, x: Tensor, p: float, seed: int) -> Tensor:
    """Add to `into` [T, N] what `drop` with the same seed makes of x: the gradient of dropout."""
    if x.is_meta:
        return into
    if by_triton(x):
        from halops.train.fused import dropout_triton

        dropout_triton.add_dropped(into, x, p, seed)
        return into
    return into.add_(x * _mask(x, p, seed))


def _mask(x: Tensor, p: float, seed: int) -> Tensor:
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return (drawn >= p).to(x.dtype) / (1 - p)

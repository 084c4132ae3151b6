"""A tensor's rows written into a wider one, such as an input with room behind for an adapter's ranks.

torch's own copy between rows that lie apart goes element by element: by a profile of an H200 at a fifth of its
memory's speed (docs/performance.md). Its launch costs the host less, though, which is what small ones wait for.
"""

from __future__ import annotations

from torch import Tensor

from halops.train.fused.launch import by_triton, power_of_two

FEW = 2**19  # elements


def place(x: Tensor, out: Tensor) -> Tensor:
    """Write x [T, W] into `out` [T, W]. Rows of either may lie further apart."""
    if x.is_meta:
        return out
    if by_triton(x) and (x.numel() >= FEW or not x.is_cuda):
        from halops.train.fused import place_triton

        place_triton.place(x, out, power_of_two(x.shape[1]))
        return out
    return out.copy_(x)

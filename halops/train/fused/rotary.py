"""Rotary positions, applied to heads of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from halops.train.fused.launch import by_triton


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, out: Tensor, backward: bool = False) -> Tensor:
    """Write `heads` [T, N, D], rotated, into `out` [T, N, D], which may be `heads` itself; cos, sin [T, D].

    Tokens and heads of either may lie further apart. Both halves of cos and sin are alike, so the gradient is the
    rotation the other way.

    Args:
        backward: rotate a gradient back.
    """
    if heads.is_meta:
        return out
    if by_triton(heads):
        from halops.train.fused import rotary_triton

        rotary_triton.rotate(heads, cos, sin, out, backward)
        return out
    by = -sin if backward else sin
    first, second = heads.chunk(2, dim=2)
    turned = torch.cat((-second, first), dim=2)
    return out.copy_(heads * cos[:, None] + turned * by[:, None])

"""Rotary positions applied in place to the first heads of a matrix that holds queries, keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from halops.train.fused.launch import by_triton


def rotate_(matrix: Tensor, cos: Tensor, sin: Tensor, heads: int, backward: bool = False) -> Tensor:
    """Rotate the first `heads` heads of `matrix` [T, at least heads * D], in place; cos, sin [T, D].

    Both halves of cos and sin are alike, so the gradient is the rotation the other way.

    Args:
        backward: rotate a gradient back.
    """
    if matrix.is_meta:
        return matrix
    if by_triton(matrix):
        from halops.train.fused import rotary_triton

        rotary_triton.rotate(matrix, cos, sin, heads, backward)
        return matrix
    width = cos.shape[1]
    part = matrix[:, : heads * width].view(len(matrix), heads, width)
    by = -sin if backward else sin
    first, second = part.chunk(2, dim=2)
    turned = torch.cat((-second, first), dim=2)
    part.copy_(part * cos[:, None] + turned * by[:, None])
    return matrix

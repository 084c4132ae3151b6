"""The gated MLP's product, h = silu(gate) * up, and its backward pass, with what adapters make of them in one reading.

Gate, up and h are the widest tensors there are. Forward h is read once more for down's A; backward it is only there
for the gradient in that A, and the gradients in gate and up are read again for those in gate's and up's B. Kernels
that sum these up as they go read nothing twice, and never write h in the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from halops.train.fused.dropout import Masks, products, weight_gradient
from halops.train.fused.launch import by_triton
from halops.train.fused.swiglu import swiglu, swiglu_backward_

FORWARD_TOKENS = 4096  # with fewer there are too few programs, each of which goes along whole rows
MOST_RANK = 64  # beyond it a tile's three sums have no room in registers
MOST_SUMS = 128  # ranks by parts of the rows, each of which has sums of its own in fp32: see halops.planner.peak


class Learned(NamedTuple):
    """Gradients in down's A [R, I] and in gate's and up's B [I, R], in the dtype that is computed in."""

    down: Tensor
    gate: Tensor
    up: Tensor


def gated(both: Tensor, out: Tensor, a: Tensor, rank: int, room: Tensor, seen: Tensor, masks: Masks | None) -> Tensor:
    """Write silu(gate) * up into `out` [T, I], and A of that, or of that after dropout, into `room` and `seen`.

    Args:
        both: [T, 2 I], gate and up side by side.
        a: [R + padding, I], of which zeros are the padding.
        rank: R, MOST_RANK at most with its padding.
        room, seen: [T, R + padding].
    """
    if both.is_meta:
        return out
    if by_triton(both):
        from halops.train.fused import gated_triton

        gated_triton.forward(both, out, a, rank, room, seen, masks)
        return out
    swiglu(both, out)
    if masks is None:
        torch.mm(out, a.t(), out=room)
    else:
        products(out, a, masks, room)
    seen.copy_(room)
    return out


def gated_backward_(
    grad: Tensor, both: Tensor, room: Tensor, seen: tuple[Tensor, Tensor], scales: tuple[float, float],
    masks: Masks | None,
) -> Learned:  # fmt: skip
    """Turn `both` [T, 2 I], gate and up side by side, into the gradient in them of that in their product, `grad`
    [T, I], which is lost. All adapters have the same rank, MOST_RANK at most; rows of any tensor may lie apart.

    Args:
        room: [T, R], s B^T g of down.
        seen: [T, R] each, what gate's and up's adapters made of their input.
        scales: of gate's and up's adapters.
        masks: of the dropout before down's A.
    """
    width = grad.shape[1]
    if both.is_meta:
        sums = both.new_empty(MOST_SUMS, 3, width, dtype=torch.float32)
        made = Learned(both.new_empty(room.shape[1], width), *(both.new_empty(width, room.shape[1]) for _ in seen))
        del sums
        return made
    if by_triton(both):
        from halops.train.fused import gated_triton

        return Learned(*gated_triton.backward(grad, both, room, seen, scales, masks))
    product = swiglu_backward_(grad, both)
    down = room.t() @ product if masks is None else weight_gradient(room, product, masks)
    gate, up = (half.t() @ one * by for half, one, by in zip(both.chunk(2, dim=1), seen, scales, strict=True))
    return Learned(down.to(both.dtype), gate, up)

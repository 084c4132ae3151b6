"""The gated MLP's product: h = silu(gate) * up, from one matrix that holds gate and up side by side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from halops.train.fused.launch import by_triton


def swiglu(both: Tensor, out: Tensor) -> Tensor:
    """Write silu(gate) * up into `out` [T, I]; `both` [T, 2 I]. Rows of either may lie further apart."""
    if both.is_meta:
        return out
    if by_triton(both):
        from halops.train.fused import swiglu_triton

        swiglu_triton.forward(both, out)
        return out
    gate, up = both.chunk(2, dim=1)
    return torch.mul(silu(gate), up, out=out) if out.is_contiguous() else out.copy_(silu(gate) * up)


def swiglu_backward_(grad: Tensor, both: Tensor) -> Tensor:
    """Turn `both` [T, 2 I] into the gradient in it, in place; grad [T, I] in the product."""
    if both.is_meta:
        return both
    if by_triton(both):
        from halops.train.fused import swiglu_triton

        swiglu_triton.backward(grad, both)
        return both
    gate, up = both.chunk(2, dim=1)
    sigmoid = torch.sigmoid(gate)
    in_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    up.copy_(grad * gate * sigmoid)
    gate.copy_(in_gate)
    return both

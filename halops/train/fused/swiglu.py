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
    """Turn `both` [T, 2 I] into the gradient in it, and `grad` [T, I], that in the product, into the product: returned.

    In one pass: what the adapters' gradients want of the product isn't computed from `both` a second time.
    """
    if both.is_meta:
        return grad
    if by_triton(both):
        from halops.train.fused import swiglu_triton

        swiglu_triton.backward(grad, both)
        return grad
    gate, up = both.chunk(2, dim=1)
    sigmoid = torch.sigmoid(gate)
    silued = gate * sigmoid
    made, in_up = silued * up, grad * silued
    gate.copy_(grad * up * sigmoid * (1 + gate * (1 - sigmoid)))
    up.copy_(in_up)
    grad.copy_(made)
    return grad

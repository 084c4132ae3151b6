"""RMSNorm with a frozen weight: y = w * x / rms(x), and its gradient in x added to the residual's."""

from __future__ import annotations

import torch
from torch import Tensor

from halops.train.fused.launch import by_triton, power_of_two


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, copy: Tensor | None = None) -> Tensor:
    """Write w * x / sqrt(mean(x^2) + eps) into `out` [T, H], whose rows may lie further apart; x [T, H].

    Args:
        copy: [T, H], to get x on the way: what the residual is added to in place.
    """
    if x.is_meta:
        return out
    if by_triton(x):
        from halops.train.fused import rms_norm_triton

        rms_norm_triton.forward(x, weight, eps, out, copy, power_of_two(x.shape[1]))
        return out
    if copy is not None:
        copy.copy_(x)
    return out.copy_(weight * _normal(x, eps).to(x.dtype))


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, residual: Tensor, out: Tensor, ranks: Tensor
) -> Tensor:
    """`residual` [T, H] plus the gradient in x; with n = x / rms and m = grad * w: (m - n * mean(m * n)) / rms.

    Args:
        grad: [T, H], in the norm's output.
        residual: the gradient that reaches x past the norm.
        out: [T, H], to fill; its rows, and the others', may lie further apart.
        ranks: [T, R], s B^T g of the adapters behind the norm, to be divided by rms: what is learnt of their inputs,
            (s B^T g)^T (w x / rms), is w times that by x then, and needs the norm's output no more.
    """
    if x.is_meta:
        return out
    if by_triton(x):
        from halops.train.fused import rms_norm_triton

        rms_norm_triton.backward(grad, x, weight, eps, residual, out, ranks, power_of_two(x.shape[1]))
        return out
    wide = _wide(x)
    scale = torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + eps)
    normal, slope = wide * scale, _wide(grad) * _wide(weight)
    inner = (slope - normal * (slope * normal).mean(1, keepdim=True)) * scale
    ranks.mul_(scale)
    return out.copy_(_wide(residual) + inner)


def _normal(x: Tensor, eps: float) -> Tensor:
    wide = _wide(x)
    return wide * torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + eps)


def _wide(x: Tensor) -> Tensor:
    """fp32 at least."""
    return x if x.dtype == torch.float64 else x.float()

"""Triton kernels of `rms_norm`: one program for each row, which it holds whole."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from halops.train.fused.launch import power_of_two


@triton.jit
def _forward(
    x, weight, out, copy, eps, width, x_stride, out_stride, copy_stride, COPIED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    given = tl.load(x + row * x_stride + columns, mask=inside, other=0.0)
    if COPIED:
        tl.store(copy + row * copy_stride + columns, given, mask=inside)
    values = given.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
    # Rounded before the weight is applied, as transformers does.
    normal = (values * scale).to(x.dtype.element_ty).to(tl.float32)
    by = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, (normal * by).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad, x, weight, residual, out, ranks, eps, width, count, grad_stride, x_stride, residual_stride, out_stride,
    ranks_stride, BLOCK: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
    normal = values * scale
    by = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + row * grad_stride + columns, mask=inside, other=0.0).to(tl.float32) * by
    mean = tl.sum(slope * normal, axis=0) / width
    past = tl.load(residual + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    made = past + (slope - normal * mean) * scale
    tl.store(out + row * out_stride + columns, made.to(out.dtype.element_ty), mask=inside)
    number = tl.arange(0, RANKS)
    at = ranks + row * ranks_stride + number
    room = tl.load(at, mask=number < count, other=0.0).to(tl.float32) * scale
    tl.store(at, room.to(ranks.dtype.element_ty), mask=number < count)


def forward(x: Any, weight: Any, eps: float, out: Any, copy: Any, block: int) -> None:
    copied = copy is not None
    target = copy if copied else out
    _forward[(len(x),)](
        x, weight, out, target, eps, x.shape[1], x.stride(0), out.stride(0), target.stride(0), COPIED=copied,
        BLOCK=block, num_warps=8,
    )  # fmt: skip


def backward(grad: Any, x: Any, weight: Any, eps: float, residual: Any, out: Any, ranks: Any, block: int) -> None:
    count = ranks.shape[1]
    _backward[(len(x),)](
        grad, x, weight, residual, out, ranks, eps, x.shape[1], count, grad.stride(0), x.stride(0), residual.stride(0),
        out.stride(0), ranks.stride(0), BLOCK=block, RANKS=power_of_two(count), num_warps=8,
    )  # fmt: skip

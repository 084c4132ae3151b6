"""Triton kernels of `swiglu`: elementwise, in fp32, rounded once."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 2048


@triton.jit
def _forward(both, out, width, both_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    at = both + row * both_stride + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    made = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * out_stride + columns, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(grad, both, width, grad_stride, both_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    at = both + row * both_stride + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    outer = tl.load(grad + row * grad_stride + columns, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    silued = gate * sigmoid
    in_gate = outer * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    in_up = outer * silued
    tl.store(at, in_gate.to(both.dtype.element_ty), mask=inside)
    tl.store(at + width, in_up.to(both.dtype.element_ty), mask=inside)
    tl.store(grad + row * grad_stride + columns, (silued * up).to(grad.dtype.element_ty), mask=inside)


def forward(both: Any, out: Any) -> None:
    width = out.shape[1]
    _forward[(len(both), triton.cdiv(width, BLOCK))](both, out, width, both.stride(0), out.stride(0), BLOCK=BLOCK)


def backward(grad: Any, both: Any) -> None:
    width = grad.shape[1]
    _backward[(len(both), triton.cdiv(width, BLOCK))](both=both, grad=grad, width=width, grad_stride=grad.stride(0),
                                                      both_stride=both.stride(0), BLOCK=BLOCK)  # fmt: skip

"""Triton kernels of `dropout`: Philox numbers by seed and position."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _drop(x, out, width, x_stride, out_stride, p, seed, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    drawn = tl.rand(seed, (row * width).to(tl.int32) + columns)
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    made = tl.where(drawn >= p, values / (1.0 - p), 0.0)
    at = out + row * out_stride + columns
    if ADD:
        made += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, made.to(out.dtype.element_ty), mask=inside)


def drop(x: Any, out: Any, p: float, seed: int) -> None:
    _launch(x, out, p, seed, False)


def add_dropped(into: Any, x: Any, p: float, seed: int) -> None:
    _launch(x, into, p, seed, True)


def _launch(x: Any, out: Any, p: float, seed: int, add: bool) -> None:
    grid = (len(x), triton.cdiv(x.shape[1], BLOCK))
    _drop[grid](x, out, x.shape[1], x.stride(0), out.stride(0), p, seed, ADD=add, BLOCK=BLOCK)

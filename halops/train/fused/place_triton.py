"""Triton kernel of `place`: one program for each row."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def _place(x, out, width, x_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    tl.store(out + row * out_stride + columns, tl.load(x + row * x_stride + columns, mask=inside), mask=inside)


def place(x: Any, out: Any, block: int) -> None:
    _place[(len(x),)](x, out, x.shape[1], x.stride(0), out.stride(0), BLOCK=block, num_warps=4)

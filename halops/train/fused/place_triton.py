"""Triton kernel of `place`: a program takes one wide row, or several narrow ones."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

ELEMENTS = 4096  # of a program, if a row has no more


@triton.jit(do_not_specialize=["tokens"])
def _place(x, out, tokens, width, x_stride, out_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (rows < tokens) & (columns < width)
    tl.store(out + rows * out_stride + columns, tl.load(x + rows * x_stride + columns, mask=inside), mask=inside)


def place(x: Any, out: Any, block: int) -> None:
    rows = max(1, ELEMENTS // block)
    _place[(triton.cdiv(len(x), rows),)](
        x, out, len(x), x.shape[1], x.stride(0), out.stride(0), ROWS=rows, BLOCK=block, num_warps=4
    )

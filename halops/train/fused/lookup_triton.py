"""Triton kernel of `HostEmbedding`: reads a token's row out of host memory that the GPU sees, too."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 1024  # columns of a program


@triton.jit
def _lookup(table, ids, out, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(ids + token)
    values = tl.load(table + row * width + column, mask=column < width, other=0.0)
    tl.store(out + token * width + column, values, mask=column < width)


def lookup(table: Any, ids: Any, out: Any) -> None:
    """table [V, H], contiguous; ids [T] int64, of which none is out of range; out [T, H], contiguous."""
    width = table.shape[1]
    _lookup[(len(ids), triton.cdiv(width, BLOCK))](table, ids, out, width, BLOCK=BLOCK)

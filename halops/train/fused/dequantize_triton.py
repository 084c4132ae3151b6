"""Triton kernel of `dequantize`: each byte holds two weights, the first in its upper half.

A program takes whole blocks of one scale each, so that a scale is reckoned once; the 16 values of a code are in
registers, from which a shuffle picks, since a load for each weight is what bounds it (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCKS = 64  # of a program


@triton.jit
def _dequantize(
    packed, scales, code, out, outer_code, outer_scales, offset, count, blocks, stride, PER_SCALE: tl.constexpr,
    PER_OUTER: tl.constexpr, NESTED: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = PER_SCALE // 2
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    known = block < count
    if NESTED:
        index = tl.load(scales + block, mask=known, other=0).to(tl.int32)
        outer = tl.load(outer_scales + block // PER_OUTER, mask=known, other=0.0)
        scale = tl.load(outer_code + index, mask=known, other=0.0) * outer + tl.load(offset)
    else:
        scale = tl.load(scales + block, mask=known, other=0.0)
    at = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    byte = tl.load(packed + at, mask=known[:, None], other=0).to(tl.int32)
    values = tl.load(code + tl.arange(0, 16))
    upper = tl.gather(values, tl.reshape(byte >> 4, (BLOCKS * HALF,)), 0)
    lower = tl.gather(values, tl.reshape(byte & 15, (BLOCKS * HALF,)), 0)
    made = tl.interleave(tl.reshape(upper, (BLOCKS, HALF)) * scale[:, None],
                         tl.reshape(lower, (BLOCKS, HALF)) * scale[:, None])  # fmt: skip
    first = (block // blocks).to(tl.int64) * stride + block % blocks * PER_SCALE
    target = out + first[:, None] + tl.arange(0, PER_SCALE)[None, :]
    tl.store(target, made.to(out.dtype.element_ty), mask=known[:, None])


def dequantize(packed: Any, state: Any, out: Any) -> None:
    """Rows of `out` are whole blocks."""
    count = 2 * packed.numel() // state.blocksize
    nested = bool(state.nested)
    outer = state.state2 if nested else None
    _dequantize[(triton.cdiv(count, BLOCKS),)](
        packed, state.absmax, state.code, out, outer.code if outer else state.code,
        outer.absmax if outer else state.absmax, state.offset if outer else state.absmax, count,
        out.shape[1] // state.blocksize, out.stride(0), PER_SCALE=state.blocksize,
        PER_OUTER=outer.blocksize if outer else 1, NESTED=nested, BLOCKS=BLOCKS,
    )  # fmt: skip

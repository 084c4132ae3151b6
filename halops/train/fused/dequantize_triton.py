"""Triton kernel of `dequantize`: each byte holds two weights, the first in its upper half."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BYTES = 1024  # of a program


@triton.jit
def _dequantize(
    packed, scales, code, out, outer_code, outer_scales, offset, count, columns, stride, PER_SCALE: tl.constexpr,
    PER_OUTER: tl.constexpr, NESTED: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BYTES
    at = first + tl.arange(0, BYTES)
    inside = at < count
    byte = tl.load(packed + at, mask=inside, other=0).to(tl.int32)
    block = at // (PER_SCALE // 2)
    if NESTED:
        index = tl.load(scales + block, mask=inside, other=0).to(tl.int32)
        outer = tl.load(outer_scales + block // PER_OUTER, mask=inside, other=0.0)
        scale = tl.load(outer_code + index, mask=inside, other=0.0) * outer + tl.load(offset)
    else:
        scale = tl.load(scales + block, mask=inside, other=0.0)
    upper = tl.load(code + (byte >> 4)) * scale
    lower = tl.load(code + (byte & 15)) * scale
    element = 2 * first + tl.arange(0, 2 * BYTES)
    target = (element // columns).to(tl.int64) * stride + element % columns
    tl.store(out + target, tl.interleave(upper, lower).to(out.dtype.element_ty), mask=element < 2 * count)


def dequantize(packed: Any, state: Any, out: Any) -> None:
    count = packed.numel()
    nested = bool(state.nested)
    outer = state.state2 if nested else None
    _dequantize[(triton.cdiv(count, BYTES),)](
        packed, state.absmax, state.code, out, outer.code if outer else state.code,
        outer.absmax if outer else state.absmax, state.offset if outer else state.absmax, count, out.shape[1],
        out.stride(0), PER_SCALE=state.blocksize, PER_OUTER=outer.blocksize if outer else 1, NESTED=nested, BYTES=BYTES,
    )  # fmt: skip

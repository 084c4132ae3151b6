"""Triton kernel of `rotary`: one program for each token, all of its heads at once."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from halops.train.fused.launch import power_of_two


@triton.jit
def _rotate(
    given, out, cos, sin, heads, stride, head_stride, out_stride, out_head_stride, table_stride, sign,
    HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, HEADS_BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS_BLOCK)[:, None]
    column = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < heads) & (column < HALF)
    by_cos = tl.load(cos + token * table_stride + column, mask=column < HALF, other=0.0).to(tl.float32)
    by_sin = tl.load(sin + token * table_stride + column, mask=column < HALF, other=0.0).to(tl.float32) * sign
    at = given + token * stride + head * head_stride + column
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    to = out + token * out_stride + head * out_head_stride + column
    tl.store(to, (first * by_cos - second * by_sin).to(out.dtype.element_ty), mask=inside)
    tl.store(to + HALF, (second * by_cos + first * by_sin).to(out.dtype.element_ty), mask=inside)


def rotate(heads: Any, cos: Any, sin: Any, out: Any, backward: bool) -> None:
    half = cos.shape[1] // 2
    _rotate[(len(heads),)](
        heads, out, cos, sin, heads.shape[1], heads.stride(0), heads.stride(1), out.stride(0), out.stride(1),
        cos.stride(0), -1.0 if backward else 1.0, HALF=half, HALF_BLOCK=power_of_two(half),
        HEADS_BLOCK=power_of_two(heads.shape[1]),
    )  # fmt: skip

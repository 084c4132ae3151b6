"""The kernels of `bench.train.candidates`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tokens", "part"])
def _mlp_gradients(
    grad, both, room, seen, out, tokens, part, width, grad_stride, both_stride, room_stride, seen_stride,
    RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    columns, ranks = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, RANK)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, tokens)
    down = tl.zeros((RANK, COLUMNS), tl.float32)
    gates = tl.zeros((RANK, COLUMNS), tl.float32)
    ups = tl.zeros((RANK, COLUMNS), tl.float32)
    for at in range(begin, end, ROWS):
        rows = (at + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < end)[:, None] & (columns < width)[None, :]
        here = both + rows[:, None] * both_stride + columns[None, :]
        gate = tl.load(here, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(here + width, mask=inside, other=0.0).to(tl.float32)
        outer = tl.load(grad + rows[:, None] * grad_stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        silued = gate * sigmoid
        in_gate = (outer * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))).to(both.dtype.element_ty)
        in_up = (outer * silued).to(both.dtype.element_ty)
        tl.store(here, in_gate, mask=inside)
        tl.store(here + width, in_up, mask=inside)
        known = (rows < end)[None, :]
        below = tl.load(room + rows[None, :] * room_stride + ranks[:, None], mask=known, other=0.0)
        left = seen + rows[None, :] * seen_stride + ranks[:, None]
        down = tl.dot(below, (silued * up).to(both.dtype.element_ty), down, input_precision="ieee")
        gates = tl.dot(tl.load(left, mask=known, other=0.0), in_gate, gates, input_precision="ieee")
        ups = tl.dot(tl.load(left + RANK, mask=known, other=0.0), in_up, ups, input_precision="ieee")
    target = out + tl.program_id(1) * 3 * RANK * width + ranks[:, None] * width + columns[None, :]
    there = (columns < width)[None, :]
    tl.store(target, down, mask=there)
    tl.store(target + RANK * width, gates, mask=there)
    tl.store(target + 2 * RANK * width, ups, mask=there)


@triton.jit
def _dequantize(
    packed, scales, code, out, outer_code, outer_scales, offset, count, blocks, stride, PER_SCALE: tl.constexpr,
    PER_OUTER: tl.constexpr, BLOCKS: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = PER_SCALE // 2
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    known = block < count
    index = tl.load(scales + block, mask=known, other=0).to(tl.int32)
    outer = tl.load(outer_scales + block // PER_OUTER, mask=known, other=0.0)
    scale = (tl.load(outer_code + index, mask=known, other=0.0) * outer + tl.load(offset))[:, None]
    at = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    byte = tl.load(packed + at, mask=known[:, None], other=0).to(tl.int32)
    if GATHER:
        table = tl.load(code + tl.arange(0, 16))
        upper = tl.reshape(tl.gather(table, tl.reshape(byte >> 4, (BLOCKS * HALF,)), 0), (BLOCKS, HALF)) * scale
        lower = tl.reshape(tl.gather(table, tl.reshape(byte & 15, (BLOCKS * HALF,)), 0), (BLOCKS, HALF)) * scale
    else:
        upper, lower = tl.load(code + (byte >> 4)) * scale, tl.load(code + (byte & 15)) * scale
    first = (block // blocks).to(tl.int64) * stride + block % blocks * PER_SCALE
    target = out + first[:, None] + tl.arange(0, PER_SCALE)[None, :]
    tl.store(target, tl.interleave(upper, lower).to(out.dtype.element_ty), mask=known[:, None])

"""Triton kernels of `gated`: forward a program goes along a few rows, backward down a part of a few columns."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from halops.train.fused.dropout_triton import _kept, columns_for, padded
from halops.train.fused.gated import MOST_SUMS

# Of tiles, the best of those tried on an H200.
ROWS, MOST_COLUMNS = 16, 64
RANK_BYTES = 32  # with so many columns; more ranks take fewer, to leave room in registers for three sums
LEAST_PART = 256  # rows of a part
WARPS, STAGES = 4, 3
BLOCK = 1024


@triton.jit
def _once(x, ONCE: tl.constexpr):
    """The same, computed once: the compiler would compute it anew in the layout that a product wants."""
    if ONCE:
        PACK: tl.constexpr = 32 // x.dtype.primitive_bitwidth
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=False, pack=PACK)
    return x


@triton.jit(do_not_specialize=["tokens", "part", "seed"])
def _backward(
    grad, both, room, gate_seen, up_seen, out, tokens, part, width, rank, grad_stride, both_stride, room_stride,
    gate_stride, up_stride, gate_scale, up_scale, calls, seed, threshold, keep_scale, ONCE: tl.constexpr,
    DROPS: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * COLUMNS
    columns, ranks = start + tl.arange(0, COLUMNS), tl.arange(0, RANK)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, tokens)
    down = tl.zeros((RANK, COLUMNS), tl.float32)
    gates = tl.zeros((RANK, COLUMNS), tl.float32)
    ups = tl.zeros((RANK, COLUMNS), tl.float32)
    for at in range(begin, end, ROWS):
        row = at + tl.arange(0, ROWS)
        rows = row.to(tl.int64)
        inside = (row < end)[:, None] & (columns < width)[None, :]
        here = both + rows[:, None] * both_stride + columns[None, :]
        gate = tl.load(here, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(here + width, mask=inside, other=0.0).to(tl.float32)
        outer = tl.load(grad + rows[:, None] * grad_stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        silued = gate * sigmoid
        in_gate = _once((outer * up * (sigmoid + silued * (1.0 - sigmoid))).to(both.dtype.element_ty), ONCE)
        in_up = _once((outer * silued).to(both.dtype.element_ty), ONCE)
        tl.store(here, in_gate, mask=inside)
        tl.store(here + width, in_up, mask=inside)
        product = silued * up
        if DROPS:
            product = tl.where(_kept(seed, 0, row, start, calls, threshold, 1, COLUMNS) != 0, product, 0.0)
        known = (row < end)[None, :] & (ranks < rank)[:, None]
        below = tl.load(room + rows[None, :] * room_stride + ranks[:, None], mask=known, other=0.0)
        left = tl.load(gate_seen + rows[None, :] * gate_stride + ranks[:, None], mask=known, other=0.0)
        right = tl.load(up_seen + rows[None, :] * up_stride + ranks[:, None], mask=known, other=0.0)
        product = _once(product.to(both.dtype.element_ty), ONCE)
        down = tl.dot(below, product, down, input_precision="ieee")
        gates = tl.dot(left, in_gate, gates, input_precision="ieee")
        ups = tl.dot(right, in_up, ups, input_precision="ieee")
    there = (ranks < rank)[:, None] & (columns < width)[None, :]
    target = out + tl.program_id(1) * 3 * rank * width
    tl.store(target + ranks[:, None] * width + columns[None, :], down * keep_scale, mask=there)
    turned = target + rank * width + columns[None, :] * rank + ranks[:, None]
    tl.store(turned, gates * gate_scale, mask=there)
    tl.store(turned + rank * width, ups * up_scale, mask=there)


@triton.jit(do_not_specialize=["tokens", "seed"])
def _forward(
    both, out, a, room, seen, tokens, width, rank, extra, both_stride, out_stride, a_stride, room_stride, seen_stride,
    calls, seed, threshold, keep_scale, ONCE: tl.constexpr, DROPS: tl.constexpr, RANK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, ranks = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, RANK)
    rows = row.to(tl.int64)[:, None]
    learned = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (row < tokens)[:, None] & (columns < width)[None, :]
        here = both + rows * both_stride + columns[None, :]
        gate = tl.load(here, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(here + width, mask=inside, other=0.0).to(tl.float32)
        product = _once((gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), ONCE)
        tl.store(out + rows * out_stride + columns[None, :], product, mask=inside)
        if DROPS:
            kept = _kept(seed, 0, row, start, calls, threshold, 1, COLUMNS) != 0
            product = tl.where(kept, product, 0.0).to(out.dtype.element_ty)
        known = (columns < width)[:, None] & (ranks < rank)[None, :]
        weights = tl.load(a + ranks[None, :] * a_stride + columns[:, None], mask=known, other=0.0)
        learned = tl.dot(product, weights, learned, input_precision="ieee")
    made = (learned * keep_scale).to(out.dtype.element_ty)
    there = (row < tokens)[:, None] & (ranks < extra)[None, :]
    tl.store(room + rows * room_stride + ranks[None, :], made, mask=there)
    tl.store(seen + rows * seen_stride + ranks[None, :], made, mask=there)


@triton.jit
def _add_up(parts, out, count, number, BLOCK: tl.constexpr):
    """The sum of `number` parts of `count` elements, in the output's dtype."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    made = tl.zeros((BLOCK,), tl.float32)
    for part in range(number):
        made += tl.load(parts + part * count + at, mask=at < count, other=0.0)
    tl.store(out + at, made.to(out.dtype.element_ty), mask=at < count)


def forward(both: Tensor, out: Tensor, a: Tensor, rank: int, room: Tensor, seen: Tensor, masks: Any) -> None:
    tokens, width = out.shape
    extra = room.shape[1]
    ranks = padded(extra)
    _forward[(triton.cdiv(tokens, ROWS),)](
        both, out, a, room, seen, tokens, width, rank, extra, both.stride(0), out.stride(0), a.stride(0),
        room.stride(0), seen.stride(0), -(-width // 8), *_dropping(masks), ONCE=both.is_cuda, DROPS=masks is not None,
        RANK=ranks, ROWS=ROWS, COLUMNS=columns_for(ranks, both.element_size()), num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip


def _dropping(masks: Any) -> tuple[int, int, float]:
    return (masks.seed, masks.threshold, masks.scale) if masks else (0, 0, 1.0)


def backward(
    grad: Tensor, both: Tensor, room: Tensor, seen: tuple[Tensor, Tensor], scales: tuple[float, float], masks: Any
) -> tuple[Tensor, Tensor, Tensor]:
    (tokens, width), rank = grad.shape, room.shape[1]
    ranks = padded(rank)
    columns = backward_columns(ranks, both.element_size())
    parts = max(1, min(MOST_SUMS // ranks, triton.cdiv(tokens, LEAST_PART)))
    part = triton.cdiv(triton.cdiv(tokens, parts), ROWS) * ROWS
    count = 3 * rank * width
    made = torch.empty(parts, count, dtype=torch.float32, device=grad.device)
    _backward[(triton.cdiv(width, columns), parts)](
        grad, both, room, *seen, made, tokens, part, width, rank, grad.stride(0), both.stride(0), room.stride(0),
        *[item.stride(0) for item in seen], *scales, -(-width // 8), *_dropping(masks), ONCE=both.is_cuda,
        DROPS=masks is not None, RANK=ranks, ROWS=ROWS, COLUMNS=columns, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    total = torch.empty(count, dtype=both.dtype, device=grad.device)
    _add_up[(triton.cdiv(count, BLOCK),)](made, total, count, parts, BLOCK=BLOCK)
    down, gate, up = total.view(3, -1)
    return down.view(rank, width), gate.view(width, rank), up.view(width, rank)


def backward_columns(rank: int, element: int) -> int:
    """Of a tile, by the padded rank and an element's bytes."""
    return columns_for(rank, element, MOST_COLUMNS, RANK_BYTES)

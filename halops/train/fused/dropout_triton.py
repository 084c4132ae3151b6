"""Triton kernels of `dropout`: an adapter's products with its input dropped as it is read, never written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from halops.train.fused.launch import power_of_two

ROWS, MOST_COLUMNS = 32, 128  # of a tile: the best of those tried on an H200
RANK_BYTES = 128  # of a column of A with so many columns; more ranks take fewer, to fit into any card's shared memory
FEW_ROWS, MANY_TOKENS = 16, 4096  # where there is less to do, more and smaller programs fill the GPU
PROGRAMS = 1024  # at least so many share the sum over the tokens


@triton.jit
def _kept(seed, first, rows, start, calls, threshold, COUNT: tl.constexpr, COLUMNS: tl.constexpr):
    """Which of a tile's elements stay, as `dropout.random_16_bits` says: a bit for each of COUNT adapters."""
    at = rows[:, None] * calls + (start // 8 + tl.arange(0, COLUMNS // 8))[None, :]
    zero = at * 0
    # Of each call's eight elements, in pairs: words are joined below so that their halves come to lie in order.
    a, b, c, d = zero, zero, zero, zero
    e, f, g, h = zero, zero, zero, zero
    for number in tl.static_range(COUNT):
        first_word, second, third, fourth = tl.philox(seed, at, zero + first + number, zero, zero, 7)
        a, b = a | _low(first_word, threshold, number), b | _high(first_word, threshold, number)
        c, d = c | _low(second, threshold, number), d | _high(second, threshold, number)
        e, f = e | _low(third, threshold, number), f | _high(third, threshold, number)
        g, h = g | _low(fourth, threshold, number), h | _high(fourth, threshold, number)
    even = tl.join(tl.join(a, e), tl.join(c, g))
    odd = tl.join(tl.join(b, f), tl.join(d, h))
    return tl.reshape(tl.join(even, odd), (rows.shape[0], COLUMNS))


@triton.jit
def _low(word, threshold, number: tl.constexpr):
    return ((word & 0xFFFF).to(tl.int32) >= threshold).to(tl.int32) << number


@triton.jit
def _high(word, threshold, number: tl.constexpr):
    return ((word >> 16).to(tl.int32) >= threshold).to(tl.int32) << number


@triton.jit(do_not_specialize=["tokens", "first", "seed"])
def _products(
    x, a, out, tokens, width, x_stride, a_stride, out_stride, calls, rank, first, seed, threshold, scale,
    RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, RANK)
    a += number * rank * a_stride
    made = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (rows < tokens)[:, None] & (columns < width)[None, :]
        given = tl.load(x + rows[:, None].to(tl.int64) * x_stride + columns[None, :], mask=inside, other=0.0)
        kept = _kept(seed, first + number, rows, start, calls, threshold, 1, COLUMNS) != 0
        known = (ranks < rank)[None, :] & (columns < width)[:, None]
        weights = tl.load(a + ranks[None, :] * a_stride + columns[:, None], mask=known, other=0.0)
        made = tl.dot(tl.where(kept, given, 0.0).to(x.dtype.element_ty), weights, made, input_precision="ieee")
    target = out + number * rank + rows[:, None].to(tl.int64) * out_stride + ranks[None, :]
    there = (rows < tokens)[:, None] & (ranks < rank)[None, :]
    tl.store(target, (made * scale).to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["tokens", "first", "seed"])
def _add_products_back(
    into, grad, a, tokens, width, into_stride, grad_stride, a_stride, calls, rank, first, seed, threshold, scale,
    COUNT: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * COLUMNS
    rows, columns = tl.program_id(1) * ROWS + tl.arange(0, ROWS), start + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    inside = (rows < tokens)[:, None] & (columns < width)[None, :]
    target = into + rows[:, None].to(tl.int64) * into_stride + columns[None, :]
    made = tl.load(target, mask=inside, other=0.0).to(tl.float32)
    kept = _kept(seed, first, rows, start, calls, threshold, COUNT, COLUMNS)
    for number in tl.static_range(COUNT):
        left = grad + number * rank + rows[:, None].to(tl.int64) * grad_stride + ranks[None, :]
        right = a + (number * rank + ranks)[:, None] * a_stride + columns[None, :]
        outer = tl.load(left, mask=(rows < tokens)[:, None] & (ranks < rank)[None, :], other=0.0)
        weights = tl.load(right, mask=(ranks < rank)[:, None] & (columns < width)[None, :], other=0.0)
        made += tl.where((kept >> number) & 1 != 0, tl.dot(outer, weights, input_precision="ieee") * scale, 0.0)
    tl.store(target, made.to(into.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "part", "first", "seed"])
def _weight_gradient(
    grad, x, out, tokens, part, width, grad_stride, x_stride, out_stride, calls, rank, first, seed, threshold, scale,
    RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    number, start, begin = tl.program_id(0), tl.program_id(1) * COLUMNS, tl.program_id(2) * part
    columns, ranks = start + tl.arange(0, COLUMNS), tl.arange(0, RANK)
    end = tl.minimum(begin + part, tokens)
    made = tl.zeros((RANK, COLUMNS), tl.float32)
    for at in range(begin, end, ROWS):
        rows = at + tl.arange(0, ROWS)
        left = grad + number * rank + rows[None, :].to(tl.int64) * grad_stride + ranks[:, None]
        outer = tl.load(left, mask=(rows < end)[None, :] & (ranks < rank)[:, None], other=0.0)
        inside = (rows < end)[:, None] & (columns < width)[None, :]
        given = tl.load(x + rows[:, None].to(tl.int64) * x_stride + columns[None, :], mask=inside, other=0.0)
        kept = _kept(seed, first + number, rows, start, calls, threshold, 1, COLUMNS) != 0
        made = tl.dot(outer, tl.where(kept, given, 0.0).to(x.dtype.element_ty), made, input_precision="ieee")
    target = out + tl.program_id(2) * out_stride + (number * rank + ranks)[:, None] * width + columns[None, :]
    tl.store(target, made * scale, mask=(ranks < rank)[:, None] & (columns < width)[None, :])


def products(x: Tensor, a: Tensor, masks: Any, out: Tensor) -> None:
    rows = ROWS if len(x) >= MANY_TOKENS else FEW_ROWS
    for first, count, rank, at, columns in _runs(masks.ranks, x):
        _products[(count, triton.cdiv(len(x), rows))](
            x, a[at:], out[:, at:], len(x), x.shape[1], x.stride(0), a.stride(0), out.stride(0), _calls(x), rank, first,
            masks.seed, masks.threshold, masks.scale, RANK=padded(rank), ROWS=rows, COLUMNS=columns,
        )  # fmt: skip


def add_products_back(into: Tensor, grad: Tensor, a: Tensor, masks: Any) -> None:
    for first, count, rank, at, columns in _runs(masks.ranks, into):
        _add_products_back[(triton.cdiv(into.shape[1], columns), triton.cdiv(len(into), ROWS))](
            into, grad[:, at:], a[at:], len(into), into.shape[1], into.stride(0), grad.stride(0), a.stride(0),
            _calls(into), rank, first, masks.seed, masks.threshold, masks.scale, COUNT=count, RANK=padded(rank),
            ROWS=ROWS, COLUMNS=columns,
        )  # fmt: skip


def weight_gradient(grad: Tensor, x: Tensor, masks: Any) -> Tensor:
    tokens, width = x.shape
    whole = triton.cdiv(width, MOST_COLUMNS) * len(masks.ranks)
    parts = max(1, min(triton.cdiv(tokens, 8 * ROWS), triton.cdiv(PROGRAMS, whole)))
    part = triton.cdiv(triton.cdiv(tokens, parts), ROWS) * ROWS
    made = torch.empty(parts, sum(masks.ranks), width, dtype=torch.float32, device=x.device)
    for first, count, rank, at, columns in _runs(masks.ranks, x):
        _weight_gradient[(count, triton.cdiv(width, columns), parts)](
            grad[:, at:], x, made[:, at:], tokens, part, width, grad.stride(0), x.stride(0), made.stride(0), _calls(x),
            rank, first, masks.seed, masks.threshold, masks.scale, RANK=padded(rank), ROWS=ROWS, COLUMNS=columns,
        )  # fmt: skip
    return made.sum(0) if parts > 1 else made[0]


def _runs(ranks: tuple[int, ...], x: Tensor) -> Iterator[tuple[int, int, int, int, int]]:
    """Adapters of one rank that follow each other go in one launch: first number, how many, rank, ranks before, and a
    tile's columns."""
    first = 0
    while first < len(ranks):
        count = 1
        while first + count < len(ranks) and ranks[first + count] == ranks[first]:
            count += 1
        yield first, count, ranks[first], sum(ranks[:first]), columns_for(padded(ranks[first]), x.element_size())
        first += count


def _calls(x: Tensor) -> int:
    """Of the random generator, for a row."""
    return -(-x.shape[1] // 8)


def padded(rank: int) -> int:
    """What tensor cores take at least."""
    return max(16, power_of_two(rank))


def columns_for(rank: int, element: int, most: int = MOST_COLUMNS, rank_bytes: int = RANK_BYTES) -> int:
    """Of a tile, by the padded rank and an element's bytes: `most` for ranks of so many bytes, fewer for more."""
    return max(16, min(most, most * rank_bytes // (rank * element)))

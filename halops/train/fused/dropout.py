"""Dropout before the adapters of one group: masks are functions of a seed, made again wherever they are wanted.

Bit for bit the same on a CPU and a GPU: Philox4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
with 7 rounds, the fewest that pass BigCrush there, of which each call gives eight elements of a row 16 bits each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halops.train.fused.launch import by_triton

LEVELS, PER_CALL, ROUNDS = 2**16, 8, 7
MULTIPLIERS, WEYL, WORD = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 0xFFFFFFFF


@dataclass(frozen=True)
class Masks:
    """A group's: each of its adapters drops elements of the input for itself.

    Args:
        p: share of elements that are zero; the others are divided by 1 - p.
        ranks: of the adapters, in order.
    """

    seed: int
    p: float
    ranks: tuple[int, ...]

    @property
    def threshold(self) -> int:
        """Elements whose 16 bits are fewer are dropped."""
        return min(round(self.p * LEVELS), LEVELS - 1)

    @property
    def scale(self) -> float:
        return LEVELS / (LEVELS - self.threshold)

    def mask(self, number: int, like: Tensor) -> Tensor:
        """0 or 1 / (1 - p) for each element of an input [T, I], before the adapter with this number."""
        kept = random_16_bits(self.seed, number, *like.shape) >= self.threshold
        return kept.to(like.dtype).to(like.device) * self.scale

    def adapters(self) -> Iterator[tuple[int, slice]]:
        """Number, and where its ranks lie among all of them."""
        at = 0
        for number, rank in enumerate(self.ranks):
            yield number, slice(at, at + rank)
            at += rank


def draw_seeds(count: int) -> list[int]:
    """So many seeds, off torch's own random state on the CPU: it is in every checkpoint."""
    return torch.randint(0, 2**31 - 1, (count,)).tolist()


def products(x: Tensor, a: Tensor, masks: Masks, out: Tensor) -> Tensor:
    """Fill `out` [T, R + padding] with A times x after dropout, adapter by adapter; x [T, I], a [R + padding, I]."""
    if x.is_meta:
        return out
    if out.shape[1] > sum(masks.ranks):
        out[:, sum(masks.ranks) :].zero_()
    if by_triton(x):
        from halops.train.fused import dropout_triton

        dropout_triton.products(x, a, masks, out)
        return out
    for number, ranks in masks.adapters():
        out[:, ranks] = (x * masks.mask(number, x)) @ a[ranks].t()
    return out


def add_products_back_(into: Tensor, grad: Tensor, a: Tensor, masks: Masks) -> Tensor:
    """Add to `into` [T, I] the gradient in x of `products`, of that in its result [T, R + padding]."""
    if into.is_meta:
        return into
    if by_triton(into):
        from halops.train.fused import dropout_triton

        dropout_triton.add_products_back(into, grad, a, masks)
        return into
    for number, ranks in masks.adapters():
        into += (grad[:, ranks] @ a[ranks]) * masks.mask(number, into)
    return into


def weight_gradient(grad: Tensor, x: Tensor, masks: Masks) -> Tensor:
    """The gradient in A [R, I] of `products`, of that in its result; kernels sum it in fp32."""
    if x.is_meta:
        return x.new_empty(sum(masks.ranks), x.shape[1], dtype=torch.float32)
    if by_triton(x):
        from halops.train.fused import dropout_triton

        made: Tensor = dropout_triton.weight_gradient(grad, x, masks)
        return made
    return torch.cat([grad[:, ranks].t() @ (x * masks.mask(number, x)) for number, ranks in masks.adapters()])


def random_16_bits(seed: int, number: int, tokens: int, columns: int) -> Tensor:
    """Uniform integers below 2^16, int64 [T, I]: a function of seed, number, and an element's row and column."""
    calls = -(-columns // PER_CALL)
    words = philox(torch.arange(tokens * calls), number, seed)
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1)
    return halves.view(tokens, calls * PER_CALL)[:, :columns]


def philox(counters: Tensor, number: int, seed: int, rounds: int = ROUNDS) -> Tensor:
    """Four words of 32 bits for each counter: int64 [N, 4]."""
    first, second, third, fourth = counters, torch.full_like(counters, number), *(torch.zeros_like(counters),) * 2
    keys = [seed & WORD, seed >> 32]
    for _ in range(rounds):
        # int64 wraps around, which leaves all 64 bits of an unsigned product; >> copies the sign, so it is cut off.
        upper, lower = first * MULTIPLIERS[0], third * MULTIPLIERS[1]
        first, second = (lower >> 32 & WORD) ^ second ^ keys[0], lower & WORD
        third, fourth = (upper >> 32 & WORD) ^ fourth ^ keys[1], upper & WORD
        keys = [(key + step) & WORD for key, step in zip(keys, WEYL, strict=True)]
    return torch.stack([first, second, third, fourth], dim=-1)

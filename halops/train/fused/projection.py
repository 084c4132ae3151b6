"""Linear layers that read the same input, with their adapters, as one matrix product.

For weights W [O, I] and adapters A [R, I], B [O, R] the product W x + s B (A x) is one matrix [W, s B] times one vector
[x, A x]; and the gradient in x, W^T g + A^T (s B^T g), is [W; A]^T times [g, s B^T g]. So one buffer

    [ W   s B ]
    [ A    -  ]

serves both passes: W is dequantized into it once, and the adapter rides along instead of a second pass over x and y.
Where outputs are far wider than the input, s B^T g comes out beside W^T g instead, as g [W, s B]: a pass of its own
over g would cost more than the one over the gradient in x, to which A^T (s B^T g) is added then.

The buffer is one piece of memory for all layers' groups of a kind, since one layer is computed at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halops.parameters import adapter_room, room_beside_inputs
from halops.train.fused.dequantize import dequantize
from halops.train.fused.dropout import Masks, add_products_back_, products, weight_gradient

Grads = list[Tensor | None]  # in a group's adapters, as far as they are known


@dataclass(frozen=True)
class Projection:
    """One linear layer under PEFT; without an adapter `a` and `b` are None."""

    weight: Any
    bias: Tensor | None
    rows: int
    columns: int
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    dropout: float = 0.0

    @property
    def rank(self) -> int:
        return 0 if self.a is None else len(self.a)


class Adapter(NamedTuple):
    """Of one projection of a group: which of all outputs it adds to, and which of all ranks are its own."""

    a: Tensor
    b: Tensor
    scale: float
    outputs: slice
    ranks: slice


class Group:
    """Projections of one input, as many outputs side by side.

    Args:
        resident: keep the weights dequantized, in a buffer of its own.
        dtype: that is computed in; the adapters' if None.
        buffers: those of other layers' groups of this kind, by shape; a missing one is added.
    """

    def __init__(
        self, projections: Sequence[Projection], resident: bool = False, dtype: torch.dtype | None = None,
        buffers: MutableMapping[tuple[int, int], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.projections = tuple(projections)
        self.dtype = dtype or next(one.a.dtype for one in projections if one.a is not None)
        self.rows = sum(one.rows for one in projections)
        self.columns = projections[0].columns
        self.rank = sum(one.rank for one in projections)
        self.extra = adapter_room(self.rank, resident)
        # Columns that a gradient [T, O] needs behind it.
        self.behind = 0 if room_beside_inputs(self.rows, self.columns) else self.extra
        biases = [one.bias for one in projections]
        self.bias = torch.cat([bias for bias in biases if bias is not None]) if biases[0] is not None else None
        self._buffer = self._found({} if resident or buffers is None else buffers)
        # Its parts, cut out once: the host takes as long for a slice as for a launch.
        self._outputs = self._buffer[: self.rows].t()  # [W, s B]^T
        self._inputs = self._buffer[:, : self.columns]  # [W; A]
        self._through = self._buffer[: self.rows]  # [W, s B]
        self._weights = self._buffer[: self.rows, : self.columns]
        self._scaled = self._buffer[: self.rows, self.columns :]  # s B
        self.stacked = self._buffer[self.rows :, : self.columns]  # A
        self._stacked_t = self.stacked.t()
        self.adapted = list(self._cut())
        self.resident = resident
        if resident:
            self._dequantize()
            self._clear()

    @property
    def adapters(self) -> list[Tensor]:
        """A and B of each projection that has them, in order."""
        return [item for one in self.adapted for item in (one.a, one.b)]

    @property
    def drops(self) -> bool:
        """Whether its adapters see their input after dropout."""
        return any(one.rank and one.dropout for one in self.projections)

    def _cut(self) -> Iterator[Adapter]:
        row, rank = 0, 0
        for one in self.projections:
            if one.a is not None and one.b is not None:
                yield Adapter(one.a, one.b, one.scale, slice(row, row + one.rows), slice(rank, rank + one.rank))
            row, rank = row + one.rows, rank + one.rank

    def _found(self, buffers: MutableMapping[tuple[int, int], Tensor]) -> Tensor:
        shape = (self.rows + self.extra, self.columns + self.extra)
        if shape not in buffers:
            buffers[shape] = torch.empty(shape, dtype=self.dtype, device=self.projections[0].weight.device)
        return buffers[shape]

    @property
    def reads(self) -> list[Tensor]:
        """What `write` reads."""
        return [*([] if self.resident else [one.weight for one in self.projections]), *self.adapters]

    def write(self) -> None:
        """Fill the buffer with the weights and the adapters as they are now, until a group that shares it does; what
        follows wants that."""
        if not self.resident:
            self._dequantize()
            self._clear()
        for one in self.adapted:
            torch.mul(one.b, one.scale, out=self._scaled[one.outputs, one.ranks])
            self.stacked[one.ranks] = one.a

    def _dequantize(self) -> None:
        at = 0
        for one in self.projections:
            dequantize(one.weight, self._buffer[at : at + one.rows, : self.columns])
            at += one.rows

    def _clear(self) -> None:
        """Zeros where no adapter writes."""
        if self.extra > self.rank or len(self.projections) > 1:  # else B fills it all
            self._scaled.zero_()
        if self.extra > self.rank:
            self.stacked[self.rank :].zero_()

    def input(self, tokens: int, like: Tensor) -> Tensor:
        """An input to fill: x [T, I] in the first columns, room for A x behind."""
        return torch.empty(tokens, self.columns + self.extra, dtype=like.dtype, device=like.device)

    def output(self, tokens: int, like: Tensor) -> Tensor:
        """A gradient to fill: g [T, O] in the first columns, room for s B^T g behind if it goes there."""
        return torch.empty(tokens, self.rows + self.behind, dtype=like.dtype, device=like.device)

    def adapt(self, x: Tensor, seed: int | None, out: Tensor) -> Tensor:
        """Fill `out`, an input's room or as wide as one, with A x, or with A times x after dropout; x [T, I]."""
        if not self.extra:
            return out
        if seed is None:
            return torch.mm(x, self._stacked_t, out=out)
        return products(x, self.stacked, self.masks(seed), out)

    def forward(self, x: Tensor, add: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """[T, O]: the product for a filled input, plus the biases, plus `add`."""
        if add is not None:
            return torch.addmm(add, x, self._outputs, out=out)
        if self.bias is not None:
            return torch.addmm(self.bias, x, self._outputs, out=out)
        return torch.mm(x, self._outputs, out=out)

    def backward(self, grad: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
        """Of a gradient [T, O + behind]: that in x [T, I], and s B^T g [T, room]. Rows of either may lie apart."""
        outer = grad[:, : self.rows]
        if not self.extra:
            return outer @ self._weights, grad[:, self.rows :]
        if self.behind:
            room = self.in_ranks(grad, grad[:, self.rows :])
            if seed is None:
                return grad @ self._inputs, room
            made = outer @ self._weights
        else:
            made, room = (outer @ self._through).split_with_sizes([self.columns, self.extra], dim=1)
            if seed is None:
                return made.addmm_(room, self.stacked), room
        return add_products_back_(made, room, self.stacked, self.masks(seed)), room

    def in_ranks(self, grad: Tensor, out: Tensor | None = None) -> Tensor:
        """s B^T g [T, room]."""
        return torch.mm(grad[:, : self.rows], self._scaled, out=out)

    def learn_a(self, room: Tensor, x: Tensor, seed: int | None, grads: Grads, factor: Tensor | None = None) -> None:
        """Add the gradients in every A, (s B^T g) x^T with x after its dropout, to `grads`, which are in the order of
        `adapters`; all come from one call.

        Args:
            room: [T, room], s B^T g.
            x: [T, I], the input.
            factor: [I], of the input's columns, if `x` lacks it.
        """
        if not self.extra:
            return
        together = room.t() @ x if seed is None else weight_gradient(room, x, self.masks(seed))
        if factor is not None:
            together.mul_(factor)
        for number, one in enumerate(self.adapted):
            add_to(grads, 2 * number, together[one.ranks])

    def learn_b(self, grad: Tensor, seen: Tensor, grads: Grads) -> None:
        """The same for every B: s g (A x)^T.

        Args:
            grad: [T, O], or wider.
            seen: [T, room], what `adapt` made of the input.
        """
        for number, one in enumerate(self.adapted):
            # With beta 0 the first argument isn't looked at: the factor costs no pass of its own.
            outer = grad[:, one.outputs].t()
            found = torch.addmm(one.b, outer, seen[:, one.ranks], beta=0, alpha=one.scale)
            add_to(grads, 2 * number + 1, found)

    def masks(self, seed: int) -> Masks:
        """Of its adapters' dropout."""
        adapted = [one for one in self.projections if one.rank]
        return Masks(seed, adapted[0].dropout, tuple(one.rank for one in adapted))  # PEFT knows one share for all


def add_to(grads: Grads, index: int, found: Tensor) -> None:
    """One more chunk's part of a sum."""
    before = grads[index]
    grads[index] = found if before is None else before.to(_wide(found.dtype)).add_(found)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What sums over several chunks are kept in."""
    return dtype if dtype == torch.float64 else torch.float32

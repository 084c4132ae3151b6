"""Linear layers that read the same input, with their adapters, as one matrix product.

For weights W [O, I] and adapters A [R, I], B [O, R] the product W x + s B (A x) is one matrix [W, s B] times one vector
[x, A x]; and the gradient in x, W^T g + A^T (s B^T g), is [W; A]^T times [g, s B^T g]. So one buffer

    [ W   s B ]
    [ A    -  ]

serves both passes: W is dequantized into it once, and the adapter rides along instead of a second pass over x and y.
It is one piece of memory for all layers' groups of a kind, since one layer is computed at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halops.parameters import adapter_room
from halops.train.fused.dequantize import dequantize
from halops.train.fused.dropout import Masks, add_products_back_, products, weight_gradient


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
        biases = [one.bias for one in projections]
        self.bias = torch.cat([bias for bias in biases if bias is not None]) if biases[0] is not None else None
        self._buffer = self._found({} if resident or buffers is None else buffers)
        # Its parts, cut out once: the host takes as long for a slice as for a launch.
        self._outputs = self._buffer[: self.rows].t()  # [W, s B]^T
        self._inputs = self._buffer[:, : self.columns]  # [W; A]
        self._weights = self._buffer[: self.rows, : self.columns]
        self._scaled = self._buffer[: self.rows, self.columns :]  # s B
        self._stacked = self._buffer[self.rows :, : self.columns]  # A
        self._stacked_t = self._stacked.t()
        self._resident = resident
        if resident:
            self._dequantize()

    @property
    def adapters(self) -> list[Tensor]:
        """A and B of each projection that has them, in order."""
        return [item for one in self.projections for item in (one.a, one.b) if item is not None]

    @property
    def drops(self) -> bool:
        """Whether its adapters see their input after dropout."""
        return any(one.rank and one.dropout for one in self.projections)

    def _found(self, buffers: MutableMapping[tuple[int, int], Tensor]) -> Tensor:
        shape = (self.rows + self.extra, self.columns + self.extra)
        if shape not in buffers:
            buffers[shape] = torch.empty(shape, dtype=self.dtype, device=self.projections[0].weight.device)
        return buffers[shape]

    @property
    def reads(self) -> list[Tensor]:
        """What `write` reads."""
        return [*([] if self._resident else [one.weight for one in self.projections]), *self.adapters]

    def write(self) -> None:
        """Fill the buffer with the weights and the adapters as they are now, until a group that shares it does; what
        follows wants that."""
        if not self._resident:
            self._dequantize()
        self._write_adapters()

    def _dequantize(self) -> None:
        at = 0
        for one in self.projections:
            dequantize(one.weight, self._buffer[at : at + one.rows, : self.columns])
            at += one.rows

    def _write_adapters(self) -> None:
        if not self.extra:
            return
        buffer = self._buffer
        if self.extra > self.rank or len(self.projections) > 1:  # else B fills it all
            buffer[: self.rows, self.columns :].zero_()
        row, rank = 0, 0
        for one in self.projections:
            if one.a is not None and one.b is not None:
                ranks = slice(self.columns + rank, self.columns + rank + one.rank)
                torch.mul(one.b, one.scale, out=buffer[row : row + one.rows, ranks])
                buffer[self.rows + rank : self.rows + rank + one.rank, : self.columns] = one.a
            row, rank = row + one.rows, rank + one.rank
        if self.extra > self.rank:
            buffer[self.rows + rank :, : self.columns].zero_()

    def input(self, tokens: int, like: Tensor) -> Tensor:
        """An input to fill: x [T, I] in the first columns, room for A x behind."""
        return torch.empty(tokens, self.columns + self.extra, dtype=like.dtype, device=like.device)

    def output(self, tokens: int, like: Tensor) -> Tensor:
        """A gradient to fill: g [T, O] in the first columns, room for s B^T g behind."""
        return torch.empty(tokens, self.rows + self.extra, dtype=like.dtype, device=like.device)

    def adapt(self, x: Tensor, seed: int | None, out: Tensor) -> Tensor:
        """Fill `out`, an input's room or as wide as one, with A x, or with A times x after dropout; x [T, I]."""
        if not self.extra:
            return out
        if seed is None:
            return torch.mm(x, self._stacked_t, out=out)
        return products(x, self._stacked, self._masks(seed), out)

    def forward(self, x: Tensor, add: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """[T, O]: the product for a filled input, plus the biases, plus `add`."""
        if add is not None:
            return torch.addmm(add, x, self._outputs, out=out)
        if self.bias is not None:
            return torch.addmm(self.bias, x, self._outputs, out=out)
        return torch.mm(x, self._outputs, out=out)

    def learn(self, grad: Tensor, x: Tensor, seen: Tensor, seed: int | None, grads: list[Tensor | None]) -> None:
        """Add the gradients in the adapters to `grads`, in the order of `adapters`.

        Args:
            grad: [T, O + room], filled.
            x: [T, I], the input.
            seen: [T, room], what `adapt` made of it.
        """
        if self.extra:
            for index, found in enumerate(self._adapters_backward(grad, x, seen, seed)):
                before = grads[index]
                grads[index] = found if before is None else before.to(_wide(found.dtype)).add_(found)

    def fill(self, grad: Tensor) -> None:
        """Fill the room of a gradient [T, O + room] with s B^T g."""
        if self.extra:
            torch.mm(grad[:, : self.rows], self._scaled, out=grad[:, self.rows :])

    def backward(self, grad: Tensor, seed: int | None) -> Tensor:
        """The gradient in x [T, I], of a filled one [T, O + room]."""
        if seed is None or not self.extra:
            return grad @ self._inputs
        made = grad[:, : self.rows] @ self._weights
        return add_products_back_(made, grad[:, self.rows :], self._stacked, self._masks(seed))

    def _adapters_backward(self, grad: Tensor, x: Tensor, seen: Tensor, seed: int | None) -> Iterator[Tensor]:
        """dA = (s B^T g) x^T, dB = s g (A x)^T, with x after its dropout; every dA from one call."""
        room = grad[:, self.rows :]
        together = room.t() @ x if seed is None else weight_gradient(room, x, self._masks(seed))
        row, rank = 0, 0
        for one in self.projections:
            if one.a is not None and one.b is not None:
                ranks = slice(rank, rank + one.rank)
                yield together[ranks]
                # With beta 0 the first argument isn't looked at: the factor costs no pass of its own.
                outer = grad[:, row : row + one.rows].t()
                yield torch.addmm(one.b, outer, seen[:, ranks], beta=0, alpha=one.scale)
            row, rank = row + one.rows, rank + one.rank

    def _masks(self, seed: int) -> Masks:
        adapted = [one for one in self.projections if one.rank]
        return Masks(seed, adapted[0].dropout, tuple(one.rank for one in adapted))  # PEFT knows one share for all


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What sums over several chunks are kept in."""
    return dtype if dtype == torch.float64 else torch.float32

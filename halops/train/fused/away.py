"""What layers keep for the backward pass, in host memory meanwhile.

Copies go beside what is computed: a layer's leave while the next one computes, and come back while the one above it is
in its backward pass, so that the GPU holds two layers' at most. The last layer's stay where they are: they are wanted
first. Each layer has host memory of its own, enough for the token budget, and keeps it.

TRL's offloading does the same for any module; but it empties the allocator's cache at each micro-batch, after which
memory is mapped anew, and its host memory comes in powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halops.train.pinned import Pinned

LEAST = 2**16  # bytes of a tensor that is worth the way
ALIGNMENT = 256  # bytes, as CUDA's own allocations have


class Place(NamedTuple):
    """A tensor's bytes in its layer's host memory, and what it is."""

    begin: int
    end: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device  # that it left


@dataclass(eq=False)
class Waiting:
    """One layer's tensors between its passes, by number: those that are on the GPU, and the places of the others."""

    index: int
    below: Waiting | None
    here: list[Tensor | None]
    away: dict[int, Place] = field(default_factory=dict)
    arrived: Any = None  # the event after the last copy to the GPU


class Away:
    """Takes tensors in the forward pass, layer after layer, and gives them back in the backward pass.

    Args:
        layers: of the model.
        token_budget: most tokens of a micro-batch. One that has more gets more memory.
    """

    def __init__(self, layers: int, token_budget: int) -> None:
        self.layers, self.token_budget = layers, token_budget
        self.memory: dict[int, Pinned] = {}
        self._latest: Waiting | None = None
        self._leaving: tuple[Any, list[Tensor]] = None, []  # on the GPU until that event
        self._stream: Any = None

    def keep(self, index: int, tensors: Sequence[Tensor | None], tokens: int) -> Waiting:
        """A layer's, at the end of its forward pass over so many tokens.

        Raises HostError where the host has no memory for them.
        """
        waiting = Waiting(index, self._latest if index else None, list(tensors))
        self._latest = waiting
        self._let_go()
        if index < self.layers - 1:
            self._send(waiting, tokens)
        return waiting

    def bring(self, waiting: Waiting) -> list[Tensor | None]:
        """The same tensors once more, at the beginning of the layer's backward pass. Those of the layer below begin to
        come."""
        self._fetch(waiting)
        if waiting.arrived:
            torch.cuda.current_stream().wait_event(waiting.arrived)
        found, waiting.here = waiting.here, []
        if waiting.below:
            self._fetch(waiting.below)
            waiting.below = None
        return found

    def _send(self, waiting: Waiting, tokens: int) -> None:
        leaving, end = list[Tensor](), 0
        for number, item in enumerate(waiting.here):
            if item is not None and item.nbytes >= LEAST:
                waiting.away[number] = Place(end, end + item.nbytes, item.shape, item.dtype, item.device)
                waiting.here[number] = None
                leaving.append(item)
                end += -(-item.nbytes // ALIGNMENT) * ALIGNMENT
        if leaving:
            self._make_room(waiting, end, tokens, leaving[0].is_cuda)
            self._leaving = self._copy(leaving, self._on_host(waiting)), leaving

    def _make_room(self, waiting: Waiting, size: int, tokens: int, cuda: bool) -> None:
        held = self.memory.get(waiting.index)
        if held is None or held.bytes.nbytes < size:
            del held
            self.memory.pop(waiting.index, None)  # before there is more
            whole = size * max(tokens, self.token_budget) // tokens + ALIGNMENT * len(waiting.away)
            self.memory[waiting.index] = Pinned(whole, cuda)

    def _on_host(self, waiting: Waiting) -> list[Tensor]:
        held = self.memory[waiting.index].bytes
        return [held[at.begin : at.end].view(at.dtype).view(at.shape) for at in waiting.away.values()]

    def _fetch(self, waiting: Waiting) -> None:
        """Begin to bring back what isn't here; nothing where that was done."""
        if not waiting.away:
            return
        made = [torch.empty(at.shape, dtype=at.dtype, device=at.device) for at in waiting.away.values()]
        waiting.arrived = self._copy(self._on_host(waiting), made)
        for number, item in zip(waiting.away, made, strict=True):
            waiting.here[number] = item
        waiting.away = {}

    def _let_go(self) -> None:
        """Of what has left: memory for what is computed from here on."""
        left, _ = self._leaving
        if left:
            torch.cuda.current_stream().wait_event(left)
        self._leaving = None, []

    def _copy(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Any:
        """After all that the GPU was asked for so far, and beside what it is asked for next. Returns the event after
        it; none on a CPU."""
        if not (sources[0].is_cuda or targets[0].is_cuda):
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source)
            return None
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source, non_blocking=True)
        return self._stream.record_event()

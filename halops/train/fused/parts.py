"""A decoder layer as the fused pass sees it: its groups of projections, where rows begin, dropout's seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from halops.planner.settings import MemorySettings
from halops.train.fused.away import Away
from halops.train.fused.dropout import draw_seeds
from halops.train.fused.gated import MOST_RANK
from halops.train.fused.place import place
from halops.train.fused.projection import Group
from halops.train.fused.recorded import Recorded
from halops.train.fused.rms_norm import rms_norm

WIDE = "halops_wide"  # on a gradient that a layer hands down: the same memory, with room for an adapter's ranks


class Kept(NamedTuple):
    """Whether what attention computes waits for the backward pass, and whether what the MLP does."""

    attention: bool
    mlp: bool


@dataclass(frozen=True)
class Layer:
    """A decoder layer's parts, and how a micro-batch spends memory."""

    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    first_norm: Tensor
    second_norm: Tensor
    eps: float
    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    index: int  # among the model's layers: the first ones are computed again
    spends: Callable[[int], MemorySettings]  # a micro-batch of so many tokens
    away: Away | None = None  # takes what waits for the backward pass; else that stays on the GPU

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        return self.qkv, self.out, self.gate_up, self.down

    @cached_property
    def adapters(self) -> list[Tensor]:
        return [item for group in self.groups for item in group.adapters]

    @cached_property
    def learns_at_once(self) -> bool:
        """Whether one kernel takes what the MLP's adapters learn between its two products: those of gate and up, or the
        one of both, and that of down, all of one rank."""
        adapted = [*self.gate_up.adapted, *self.down.adapted]
        everywhere = len(adapted) == len(self.gate_up.projections) + len(self.down.projections)
        ranks = {len(one.a) for one in adapted}
        return everywhere and len(ranks) == 1 and max(ranks) <= MOST_RANK

    @cached_property
    def load(self) -> Recorded:
        """Call it before either pass: fills the buffers, which other layers share, with this layer's weights and its
        adapters as they are now."""

        def write() -> None:
            for group in self.groups:
                group.write()

        return Recorded(write, [item for group in self.groups for item in group.reads])

    def keeps(self, tokens: int) -> Kept:
        """What of a micro-batch of so many tokens."""
        settings = self.spends(tokens)
        whole = self.index >= settings.checkpointed_layers
        return Kept(whole or settings.keep_attention, whole)

    def room(self, tokens: int, like: Tensor) -> Tensor:
        """For what the adapters make of their inputs, [T, ranks of all groups]: see `seen_by`."""
        return like.new_empty(tokens, sum(group.extra for group in self.groups))

    def seen_by(self, room: Tensor) -> tuple[Tensor, ...]:
        """Each group's columns of it."""
        return room.split_with_sizes([group.extra for group in self.groups], dim=1)

    def chunks(self, tokens: int) -> list[slice]:
        """The tokens, as many at a time as the MLP takes."""
        most = self.spends(tokens).mlp_tokens
        return [slice(at, min(at + most, tokens)) for at in range(0, tokens, most)]


class Rows(NamedTuple):
    """Where each row begins and ends, and its positions' rotation: cos and sin [T, D]."""

    bounds: Tensor
    longest: int
    cos: Tensor
    sin: Tensor


class Seeds(NamedTuple):
    """Of dropout, by group; None without it."""

    qkv: int | None
    out: int | None
    chunks: list[tuple[int | None, int | None]]  # gate and up, down


def adapted(given: Tensor, group: Group, seed: int | None, seen: Tensor, again: bool) -> None:
    """Fill an input's room by the adapters, and `seen` with the same, so that nothing need hold on to the input; the
    second time with what was seen."""
    room = given[:, group.columns :]
    if again:
        place(seen, room)
    else:
        place(group.adapt(given[:, : group.columns], seed, room), seen)


def normed(
    x: Tensor, group: Group, weight: Tensor, layer: Layer, seed: int | None, seen: Tensor, again: bool,
    copy: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """x after a norm of the layer, as the group's filled input; see `adapted`, and `rms_norm` for `copy`."""
    made = group.input(len(x), x)
    rms_norm(x, weight, layer.eps, made[:, : group.columns], copy)
    adapted(made, group, seed, seen, again)
    return made


def with_room(grad: Tensor, group: Group) -> Tensor:
    """A gradient [..., O] as [T, O + behind]: where the layer above made it so, without a copy."""
    wide: Tensor | None = getattr(grad, WIDE, None)
    if wide is None or wide.shape[1] != group.rows + group.behind:
        flat = grad.reshape(-1, group.rows)
        wide = group.output(len(flat), grad)
        place(flat, wide[:, : group.rows])
    return wide


def handed_down(wide: Tensor, group: Group, shape: torch.Size) -> Tensor:
    """A gradient [T, O + behind] as [..., O] whose room the layer below finds again: see `with_room`."""
    made = wide[:, : group.rows].view(shape)
    setattr(made, WIDE, wide)
    return made


def seeds_for(layer: Layer, tokens: int, dropping: bool) -> Seeds:
    """A seed for each group, and for each chunk of the MLP anew: a mask depends on its seed alone."""
    groups = [layer.qkv, layer.out, *[layer.gate_up, layer.down] * len(layer.chunks(tokens))]
    drops = [dropping and group.drops for group in groups]
    drawn = draw_seeds(len(groups)) if any(drops) else [0] * len(groups)
    qkv, out, *inner = [seed if wanted else None for seed, wanted in zip(drawn, drops, strict=True)]
    return Seeds(qkv, out, list(zip(inner[::2], inner[1::2], strict=True)))

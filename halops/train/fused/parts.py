"""A decoder layer as the fused pass sees it: its groups of projections, where rows begin, dropout's seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from halops.train.fused.dropout import draw_seeds
from halops.train.fused.projection import Group
from halops.train.fused.rms_norm import rms_norm

WIDE = "halops_wide"  # on a gradient that a layer hands down: the same memory, with room for an adapter's ranks


@dataclass(frozen=True)
class Layer:
    """A decoder layer's parts; `keep` means that nothing of it is computed again."""

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
    keep: bool
    mlp_tokens: Callable[[int], int]  # at once, of a micro-batch of so many

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        return self.qkv, self.out, self.gate_up, self.down

    @property
    def adapters(self) -> list[Tensor]:
        return [item for group in self.groups for item in group.adapters]

    def chunks(self, tokens: int) -> list[slice]:
        """The tokens, as many at a time as the MLP takes."""
        most = self.mlp_tokens(tokens)
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


def adapted(given: Tensor, group: Group, matrix: Tensor, seed: int | None, seen: Tensor | None) -> Tensor:
    """Fill an input's room: by the adapters, or with what they were `seen` to make of it; returned by itself, so that
    nothing need hold on to the input."""
    room = given[:, group.columns :]
    if seen is not None:
        room.copy_(seen)
        return seen
    group.adapt(given[:, : group.columns], matrix, seed, room)
    return room.clone()


def normed(
    x: Tensor, group: Group, weight: Tensor, eps: float, matrix: Tensor, seed: int | None, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x after its norm, as a filled input; and what `adapted` returns."""
    made = group.input(len(x), x)
    rms_norm(x, weight, eps, made[:, : group.columns])
    return made, adapted(made, group, matrix, seed, seen)


def with_room(grad: Tensor, group: Group) -> Tensor:
    """A gradient [T, O] with its room: where the layer above made it so, without a copy."""
    wide: Tensor | None = getattr(grad, WIDE, None)
    if wide is None or wide.shape[1] != group.rows + group.extra:
        wide = group.output(len(grad), grad)
        wide[:, : group.rows] = grad
    return wide


def handed_down(wide: Tensor, group: Group) -> Tensor:
    """A gradient to fill whose room the layer below finds again: see `with_room`."""
    made = wide[:, : group.rows]
    setattr(made, WIDE, wide)
    return made


def seeds_for(layer: Layer, tokens: int, dropping: bool) -> Seeds:
    """A seed for each group, and for each chunk of the MLP anew: a mask depends on its seed alone."""
    groups = [layer.qkv, layer.out, *[layer.gate_up, layer.down] * len(layer.chunks(tokens))]
    drops = [dropping and group.drops for group in groups]
    drawn = draw_seeds(len(groups)) if any(drops) else [0] * len(groups)
    qkv, out, *inner = [seed if wanted else None for seed, wanted in zip(drawn, drops, strict=True)]
    return Seeds(qkv, out, list(zip(inner[::2], inner[1::2], strict=True)))

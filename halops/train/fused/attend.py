"""A decoder layer's first half, norm and attention with their residual, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from halops.train import attention
from halops.train.fused.parts import Layer, Rows, Seeds, adapted, normed
from halops.train.fused.place import place
from halops.train.fused.projection import Grads
from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
from halops.train.fused.rotary import rotate


class Attended(NamedTuple):
    """What attention leaves for the backward pass."""

    qkv: Tensor
    out: Tensor
    after: Tensor  # the residual after attention
    kept: tuple[Tensor, ...]


def attend(x: Tensor, layer: Layer, rows: Rows, seeds: Seeds, seen: Sequence[Tensor], again: bool = False) -> Attended:
    """x [T, H] through norm and attention; what the adapters make of their inputs goes into `seen`, or comes from it
    when it is computed again."""
    after = torch.empty_like(x)
    given = normed(x, layer.qkv, layer.first_norm, layer, seeds.qkv, seen[0], again, after)
    qkv = layer.qkv.forward(given)
    del given
    query, key, value = _heads(qkv, layer)
    for heads in (query, key):
        rotate(heads, rows.cos, rows.sin, heads)
    out, kept = attention.forward(query, key, value, rows.bounds, rows.longest, layer.scaling)
    given = layer.out.input(len(out), out)
    place(out.flatten(1), given[:, : layer.out.columns])
    adapted(given, layer.out, seeds.out, seen[1], again)
    layer.out.forward(given, add=after, out=after)
    return Attended(qkv, out, after, kept)


def attend_backward(
    outer: Tensor, x: Tensor, attended: Attended, layer: Layer, rows: Rows, seeds: Seeds, seen: Sequence[Tensor],
    found: list[Grads], wanted: bool,
) -> Tensor | None:  # fmt: skip
    """The gradient in x, if it is wanted, [T, H + room] as `layer.down` takes it, of that in the residual after
    attention, `outer`; the adapters' go into `found`."""
    in_out, ranks = layer.out.backward(outer, seeds.out)
    layer.out.learn_a(ranks, attended.out.flatten(1), seeds.out, found[1])
    layer.out.learn_b(outer, seen[1], found[1])
    query, key, value = attention.backward(
        in_out.view_as(attended.out), *_heads(attended.qkv, layer), rows.bounds, attended.out, attended.kept,
        rows.longest, layer.scaling,
    )  # fmt: skip
    del in_out
    in_qkv = layer.qkv.output(len(x), x)
    targets = _heads(in_qkv, layer)
    rotate(query, rows.cos, rows.sin, targets[0], backward=True)
    rotate(key, rows.cos, rows.sin, targets[1], backward=True)
    place(value.flatten(1), targets[2].view(len(x), -1))
    del query, key, value
    layer.qkv.learn_b(in_qkv, seen[0], found[0])
    if not wanted:
        given = rms_norm(x, layer.first_norm, layer.eps, torch.empty_like(x))
        layer.qkv.learn_a(layer.qkv.in_ranks(in_qkv), given, seeds.qkv, found[0])
        return None
    in_norm, ranks = layer.qkv.backward(in_qkv, seeds.qkv)
    made = layer.down.output(len(x), x)
    past, target = outer[:, : layer.out.rows], made[:, : layer.down.rows]
    rms_norm_backward(in_norm, x, layer.first_norm, layer.eps, past, target, ranks)
    layer.qkv.learn_a(ranks, x, seeds.qkv, found[0], layer.first_norm)
    return made


def _heads(qkv: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [T, heads, D], as views."""
    inner = qkv[:, : layer.qkv.rows].view(len(qkv), -1, layer.head_dim)
    keys = layer.heads + layer.kv_heads
    return inner[:, : layer.heads], inner[:, layer.heads : keys], inner[:, keys:]

"""A decoder layer's second half, norm and gated MLP with their residual, forward and backward, in chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from halops.train.fused.gated import FORWARD_TOKENS, MOST_RANK, gated, gated_backward_
from halops.train.fused.parts import Layer, Seeds, adapted, normed
from halops.train.fused.projection import Grads, add_to
from halops.train.fused.rms_norm import rms_norm_backward
from halops.train.fused.swiglu import swiglu, swiglu_backward_


def mlp(x: Tensor, layer: Layer, seeds: Seeds, seen: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    """x [T, H] through norm and MLP, with the residual; and, if it is to be kept, gate and up side by side as
    `layer.gate_up.output` makes them. What the adapters make of their inputs goes into `seen`."""
    made = torch.empty_like(x)
    kept = layer.gate_up.output(len(x), x) if keep else None
    for part, (first, second) in _parts(layer, len(x), seeds):
        both = layer.gate_up.output(len(x[part]), x) if kept is None else kept[part]
        _gate_up(x[part], layer, first, seen[2][part], both, made[part])
        product = layer.down.input(len(both), both)
        _product(layer, both[:, : layer.gate_up.rows], product, second, seen[3][part])
        layer.down.forward(product, add=made[part], out=made[part])
        del both, product  # before the next ones are made
    return made, kept


def _product(layer: Layer, both: Tensor, product: Tensor, seed: int | None, seen: Tensor) -> None:
    """Fill down's input."""
    down, inner = layer.down, product[:, : layer.down.columns]
    if len(both) < FORWARD_TOKENS or not 0 < down.extra <= MOST_RANK:
        swiglu(both, inner)
        adapted(product, down, seed, seen, False)
        return
    masks = None if seed is None else down.masks(seed)
    gated(both, inner, down.stacked, down.rank, product[:, down.columns :], seen, masks)


def mlp_backward(
    grad: Tensor, x: Tensor, layer: Layer, seeds: Seeds, seen: Sequence[Tensor], kept: Tensor | None,
    grads: list[Grads],
) -> Tensor:  # fmt: skip
    """The gradient in the residual after attention, [T, H + room], as `layer.out` takes it; `grad` as `layer.down`."""
    upper, lower = grads[2:]
    made = layer.out.output(len(grad), grad)
    for part, (first, second) in _parts(layer, len(x), seeds):
        in_gate_up, in_down = seen[2][part], seen[3][part]
        both = layer.gate_up.output(len(x[part]), x) if kept is None else kept[part]
        if kept is None:
            _gate_up(x[part], layer, first, in_gate_up, both)
        outer = grad[part]
        in_product, ranks = layer.down.backward(outer, second)
        layer.down.learn_b(outer, in_down, lower)
        _between(layer, in_product, both, ranks, in_gate_up, second, upper, lower)
        del outer, in_product
        in_norm, ranks = layer.gate_up.backward(both, first)
        del both
        target = made[part, : layer.out.rows]
        past = grad[part, : layer.down.rows]
        rms_norm_backward(in_norm, x[part], layer.second_norm, layer.eps, past, target, ranks)
        layer.gate_up.learn_a(ranks, x[part], first, upper, layer.second_norm)
        del in_norm, ranks
    return made


def _between(
    layer: Layer, in_product: Tensor, both: Tensor, ranks: Tensor, seen: Tensor, seed: int | None, upper: Grads,
    lower: Grads,
) -> None:  # fmt: skip
    """Turn gate and up into the gradient in them, and add what down's A and their B learn."""
    gates = both[:, : layer.gate_up.rows]
    if not layer.learns_at_once:
        layer.down.learn_a(ranks, swiglu_backward_(in_product, gates), seed, lower)
        layer.gate_up.learn_b(both, seen, upper)
        return
    (below,), (gate, *others) = layer.down.adapted, layer.gate_up.adapted
    up = others[0] if others else gate
    masks = None if seed is None else layer.down.masks(seed)
    pair, scales = (seen[:, gate.ranks], seen[:, up.ranks]), (gate.scale, up.scale)
    found = gated_backward_(in_product, gates, ranks[:, below.ranks], pair, scales, masks)
    add_to(lower, 0, found.down)
    if others:
        add_to(upper, 1, found.gate)
        add_to(upper, 3, found.up)
    else:  # one matrix holds both
        add_to(upper, 1, torch.cat([found.gate, found.up]))


def _gate_up(
    x: Tensor, layer: Layer, seed: int | None, seen: Tensor, both: Tensor, copy: Tensor | None = None
) -> None:  # fmt: skip
    """Fill gate and up side by side, and `copy` with x; without one for the second time."""
    given = normed(x, layer.gate_up, layer.second_norm, layer, seed, seen, copy is None, copy)
    layer.gate_up.forward(given, out=both[:, : layer.gate_up.rows])


def _parts(layer: Layer, tokens: int, seeds: Seeds) -> Iterator[tuple[slice, tuple[int | None, int | None]]]:
    return zip(layer.chunks(tokens), seeds.chunks, strict=True)

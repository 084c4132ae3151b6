"""A decoder layer's second half, norm and gated MLP with their residual, forward and backward, in chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from halops.train.fused.parts import Layer, Seeds, adapted, normed
from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
from halops.train.fused.swiglu import swiglu, swiglu_backward_


def mlp(x: Tensor, layer: Layer, seeds: Seeds, seen: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    """x [T, H] through norm and MLP, with the residual; and, if it is to be kept, gate and up side by side with room
    behind. What the adapters make of their inputs goes into `seen`."""
    made = torch.empty_like(x)
    kept = layer.gate_up.output(len(x), x) if keep else None
    for part, (first, second) in _parts(layer, len(x), seeds):
        both = layer.gate_up.output(len(x[part]), x) if kept is None else kept[part]
        _gate_up(x[part], layer, first, seen[2][part], False, both)  # its input goes at once
        product = layer.down.input(len(both), both)
        swiglu(both[:, : layer.gate_up.rows], product[:, : layer.down.columns])
        adapted(product, layer.down, second, seen[3][part], False)
        layer.down.forward(product, add=x[part], out=made[part])
        del both, product  # before the next ones are made
    return made, kept


def mlp_backward(
    grad: Tensor, x: Tensor, layer: Layer, seeds: Seeds, seen: Sequence[Tensor], kept: Tensor | None,
    grads: list[list[Tensor | None]],
) -> Tensor:  # fmt: skip
    """The gradient in the residual after attention, [T, H + room], as `layer.out` takes it; `grad` as `layer.down`."""
    upper, lower = grads[2:]
    made = layer.out.output(len(grad), grad)
    for part, (first, second) in _parts(layer, len(x), seeds):
        in_gate_up, in_down, given = seen[2][part], seen[3][part], None
        both = layer.gate_up.output(len(x[part]), x) if kept is None else kept[part]
        if kept is None:
            given = _gate_up(x[part], layer, first, in_gate_up, True, both)
        outer = grad[part]
        layer.down.fill(outer)
        product = swiglu_backward_(layer.down.backward(outer, second), both[:, : layer.gate_up.rows])
        layer.down.learn(outer, product, in_down, second, lower)
        del outer, product
        layer.gate_up.fill(both)
        in_norm = layer.gate_up.backward(both, first)
        if given is None:
            given = rms_norm(x[part], layer.second_norm, layer.eps, torch.empty_like(x[part]))
        layer.gate_up.learn(both, given[:, : layer.gate_up.columns], in_gate_up, first, upper)
        del both, given
        target = made[part, : layer.out.rows]
        past = grad[part, : layer.down.rows]
        rms_norm_backward(in_norm, x[part], layer.second_norm, layer.eps, past, target)
    return made


def _gate_up(x: Tensor, layer: Layer, seed: int | None, seen: Tensor, again: bool, both: Tensor) -> Tensor:
    """Fill gate and up side by side; their input as it was filled."""
    given = normed(x, layer.gate_up, layer.second_norm, layer.eps, seed, seen, again)
    layer.gate_up.forward(given, out=both[:, : layer.gate_up.rows])
    return given


def _parts(layer: Layer, tokens: int, seeds: Seeds) -> Iterator[tuple[slice, tuple[int | None, int | None]]]:
    return zip(layer.chunks(tokens), seeds.chunks, strict=True)

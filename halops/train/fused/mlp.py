"""A decoder layer's second half, norm and gated MLP with their residual, forward and backward, in chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from halops.train.fused.parts import Layer, Seeds, adapted, normed
from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
from halops.train.fused.swiglu import swiglu, swiglu_backward_


class Inner(NamedTuple):
    """What a chunk of the MLP leaves for the backward pass."""

    both: Tensor | None  # gate and up side by side, with room behind; None if they are to be computed again
    in_gate_up: Tensor  # what the adapters made of their inputs
    in_down: Tensor


def mlp(x: Tensor, layer: Layer, seeds: Seeds) -> tuple[Tensor, list[Inner]]:
    """x [T, H] through norm and MLP, with the residual; and what each chunk leaves."""
    wide, narrow = layer.gate_up.matrix(), layer.down.matrix()
    made, inner = torch.empty_like(x), []
    for part, (first, second) in _parts(layer, len(x), seeds):
        both, in_gate_up = _gate_up(x[part], layer, wide, first, None)[:2]  # its input goes at once
        product = layer.down.input(len(both), both)
        swiglu(both[:, : layer.gate_up.rows], product[:, : layer.down.columns])
        in_down = adapted(product, layer.down, narrow, second, None)
        layer.down.forward(product, narrow, add=x[part], out=made[part])
        inner.append(Inner(both if layer.keep else None, in_gate_up, in_down))
        del both, product  # before the next ones are made
    return made, inner


def mlp_backward(
    grad: Tensor, x: Tensor, layer: Layer, seeds: Seeds, inner: Sequence[Inner], grads: list[list[Tensor | None]]
) -> Tensor:
    """The gradient in the residual after attention, [T, H + room], as `layer.out` takes it; `grad` as `layer.down`."""
    wide, narrow = layer.gate_up.matrix(), layer.down.matrix()
    upper, lower = grads[2:]
    made = layer.out.output(len(grad), grad)
    for index, (part, (first, second)) in enumerate(_parts(layer, len(x), seeds)):
        both, in_gate_up, in_down = inner[index]
        given = None
        if both is None:
            both, _, given = _gate_up(x[part], layer, wide, first, in_gate_up)
        outer = grad[part]
        layer.down.fill(outer, narrow)
        product = swiglu_backward_(layer.down.backward(outer, narrow, second), both[:, : layer.gate_up.rows])
        layer.down.learn(outer, product, in_down, second, lower)
        del outer, product
        layer.gate_up.fill(both, wide)
        in_norm = layer.gate_up.backward(both, wide, first)
        if given is None:
            given = rms_norm(x[part], layer.second_norm, layer.eps, torch.empty_like(x[part]))
        layer.gate_up.learn(both, given[:, : layer.gate_up.columns], in_gate_up, first, upper)
        del both, given
        target = made[part, : layer.out.rows]
        past = grad[part, : layer.down.rows]
        rms_norm_backward(in_norm, x[part], layer.second_norm, layer.eps, past, target)
    return made


def _gate_up(
    x: Tensor, layer: Layer, matrix: Tensor, seed: int | None, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gate and up side by side with room behind, what their adapters made of their input, and that as it was filled."""
    given, in_gate_up = normed(x, layer.gate_up, layer.second_norm, layer.eps, matrix, seed, seen)
    both = layer.gate_up.output(len(x), x)
    layer.gate_up.forward(given, matrix, out=both[:, : layer.gate_up.rows])
    return both, in_gate_up, given


def _parts(layer: Layer, tokens: int, seeds: Seeds) -> Iterator[tuple[slice, tuple[int | None, int | None]]]:
    return zip(layer.chunks(tokens), seeds.chunks, strict=True)

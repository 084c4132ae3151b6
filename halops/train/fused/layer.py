"""One decoder layer as one autograd function: norm, attention, norm, gated MLP, each with its residual.

A checkpointed layer keeps its input alone. Its backward pass computes the layer again but for the MLP's last product,
of which nothing needs the result, and uses each dequantized weight twice. The MLP goes a chunk of tokens at a time,
since its inner width is what takes memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halops.train import attention
from halops.train.fused.dropout import draw_seeds
from halops.train.fused.projection import Group
from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
from halops.train.fused.rotary import rotate_
from halops.train.fused.swiglu import swiglu, swiglu_backward_


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
    mlp_tokens: int

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        return self.qkv, self.out, self.gate_up, self.down

    @property
    def adapters(self) -> list[Tensor]:
        return [item for group in self.groups for item in group.adapters]

    def chunks(self, tokens: int) -> list[slice]:
        """The tokens, as many at a time as the MLP takes."""
        return [slice(at, min(at + self.mlp_tokens, tokens)) for at in range(0, tokens, self.mlp_tokens)]


class Rows(NamedTuple):
    """Where each row begins and ends, and its positions' rotation: cos and sin [T, D]."""

    bounds: Tensor
    longest: int
    cos: Tensor
    sin: Tensor


class Seeds(NamedTuple):
    """Of dropout, by group; all empty without it."""

    qkv: list[int]
    out: list[int]
    chunks: list[tuple[list[int], list[int]]]  # gate and up, down


class Attended(NamedTuple):
    """What attention leaves for the backward pass."""

    qkv: Tensor
    out: Tensor
    kept: tuple[Tensor, ...]
    after: Tensor  # the residual after attention
    matrices: tuple[Tensor, Tensor] | None = None  # of qkv and out, where the same pass goes on to use them


def decoder_layer(x: Tensor, layer: Layer, rows: Rows, dropping: bool) -> Tensor:
    """x [T, H] -> [T, H].

    Args:
        dropping: whether the adapters' dropout is on.
    """
    made: Tensor = DecoderLayer.apply(x, layer, rows, _seeds(layer, len(x), dropping), *layer.adapters)
    return made


class DecoderLayer(torch.autograd.Function):
    """Gradients in x and in the adapters; everything else is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, rows: Rows, seeds: Seeds, *adapters: Tensor) -> Tensor:
        attended = _attend(x, layer, rows, seeds)
        inner: list[Tensor] = []
        made = torch.empty_like(x)
        _mlp(attended.after, layer, seeds, made, inner)
        kept = (attended.qkv, attended.out, *attended.kept, attended.after, *inner) if layer.keep else ()
        ctx.save_for_backward(x, *kept)
        ctx.layer, ctx.rows, ctx.seeds = layer, rows, seeds
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer, rows, seeds = ctx.layer, ctx.rows, ctx.seeds
        x, *kept = ctx.saved_tensors
        count = len(seeds.chunks)
        if layer.keep:
            attended = Attended(kept[0], kept[1], tuple(kept[2 : -1 - count]), kept[-1 - count])
            inner = kept[-count:]
        else:
            attended, inner = _attend(x, layer, rows, seeds), []
        grads: list[list[Tensor | None]] = [[None] * len(group.adapters) for group in layer.groups]
        grad = _mlp_backward(grad.contiguous(), attended.after, layer, seeds, inner, grads)
        made = _attend_backward(grad, x, attended, layer, rows, seeds, grads, ctx.needs_input_grad[0])
        found = [item for group in grads for item in group]
        given = [
            None if item is None else item.to(adapter.dtype)
            for item, adapter in zip(found, layer.adapters, strict=True)
        ]
        return made, None, None, None, *given


def _attend(x: Tensor, layer: Layer, rows: Rows, seeds: Seeds) -> Attended:
    first, second = layer.qkv.matrix(), layer.out.matrix()
    qkv = layer.qkv.forward(_normed(x, layer.qkv, layer.first_norm, layer.eps, first, seeds.qkv), first)
    rotate_(qkv, rows.cos, rows.sin, layer.heads + layer.kv_heads)
    out, kept = attention.forward(*_heads(qkv, layer), rows.bounds, rows.longest, layer.scaling)
    after = layer.out.forward(_joined(out, layer.out, second, seeds.out), second, add=x)
    return Attended(qkv, out, kept, after, (first, second))


def _normed(x: Tensor, group: Group, weight: Tensor, eps: float, matrix: Tensor, seeds: Sequence[int]) -> Tensor:
    made = group.input(len(x), x)
    rms_norm(x, weight, eps, made[:, : group.columns])
    group.adapt(made, matrix, seeds)
    return made


def _joined(out: Tensor, group: Group, matrix: Tensor, seeds: Sequence[int]) -> Tensor:
    """The heads' outputs side by side, as input of the output projection."""
    made = group.input(len(out), out)
    made[:, : group.columns] = out.flatten(1)
    group.adapt(made, matrix, seeds)
    return made


def _heads(qkv: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [T, heads, D], as views."""
    inner = qkv[:, : layer.qkv.rows].view(len(qkv), -1, layer.head_dim)
    keys = layer.heads + layer.kv_heads
    return inner[:, : layer.heads], inner[:, layer.heads : keys], inner[:, keys:]


def _gate_up(x: Tensor, layer: Layer, matrix: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The MLP's input as it was filled, and gate and up side by side, with room behind."""
    given = _normed(x, layer.gate_up, layer.second_norm, layer.eps, matrix, seeds)
    both = layer.gate_up.output(len(x), x)
    layer.gate_up.forward(given, matrix, out=both[:, : layer.gate_up.rows])
    return given, both


def _product(both: Tensor, layer: Layer, matrix: Tensor, seeds: Sequence[int]) -> Tensor:
    made = layer.down.input(len(both), both)
    swiglu(both[:, : layer.gate_up.rows], made[:, : layer.down.columns])
    layer.down.adapt(made, matrix, seeds)
    return made


def _mlp(x: Tensor, layer: Layer, seeds: Seeds, made: Tensor, inner: list[Tensor]) -> None:
    wide, narrow = layer.gate_up.matrix(), layer.down.matrix()
    for part, (first, second) in _parts(layer, len(x), seeds):
        both = _gate_up(x[part], layer, wide, first)[1]
        layer.down.forward(_product(both, layer, narrow, second), narrow, add=x[part], out=made[part])
        if layer.keep:
            inner.append(both)


def _mlp_backward(
    grad: Tensor, x: Tensor, layer: Layer, seeds: Seeds, inner: Sequence[Tensor], grads: list[list[Tensor | None]]
) -> Tensor:
    wide, narrow = layer.gate_up.matrix(), layer.down.matrix()
    upper, lower = grads[2:]
    made = torch.empty_like(grad)
    for index, (part, (first, second)) in enumerate(_parts(layer, len(x), seeds)):
        given, both = _gate_up(x[part], layer, wide, first) if not inner else (None, inner[index])
        outer = layer.down.output(len(both), grad)
        outer[:, : layer.down.rows] = grad[part]
        in_product = layer.down.backward(outer, _product(both, layer, narrow, second), narrow, second, lower)
        del outer
        swiglu_backward_(in_product, both[:, : layer.gate_up.rows])
        del in_product
        if given is None:
            given = _normed(x[part], layer.gate_up, layer.second_norm, layer.eps, wide, first)
        in_norm = layer.gate_up.backward(both, given, wide, first, upper)
        del both, given
        made[part] = rms_norm_backward(in_norm, x[part], layer.second_norm, layer.eps, grad[part])
    return made


def _attend_backward(
    grad: Tensor, x: Tensor, attended: Attended, layer: Layer, rows: Rows, seeds: Seeds,
    found: list[list[Tensor | None]], wanted: bool,
) -> Tensor | None:  # fmt: skip
    first, second = attended.matrices or (layer.qkv.matrix(), layer.out.matrix())
    outer = layer.out.output(len(x), grad)
    outer[:, : layer.out.rows] = grad
    given = _joined(attended.out, layer.out, second, seeds.out)
    in_out = layer.out.backward(outer, given, second, seeds.out, found[1])
    del outer, given
    grads = attention.backward(
        in_out.view_as(attended.out), *_heads(attended.qkv, layer), rows.bounds, attended.out, attended.kept,
        rows.longest, layer.scaling,
    )  # fmt: skip
    in_qkv = layer.qkv.output(len(x), x)
    for target, part in zip(_heads(in_qkv, layer), grads, strict=True):
        target.copy_(part)
    del grads, in_out
    rotate_(in_qkv, rows.cos, rows.sin, layer.heads + layer.kv_heads, backward=True)
    given = _normed(x, layer.qkv, layer.first_norm, layer.eps, first, seeds.qkv)
    if not wanted:
        layer.qkv.learn(in_qkv, given, first, seeds.qkv, found[0])
        return None
    in_norm = layer.qkv.backward(in_qkv, given, first, seeds.qkv, found[0])
    return rms_norm_backward(in_norm, x, layer.first_norm, layer.eps, grad)


def _parts(layer: Layer, tokens: int, seeds: Seeds) -> Iterator[tuple[slice, tuple[list[int], list[int]]]]:
    return zip(layer.chunks(tokens), seeds.chunks, strict=True)


def _seeds(layer: Layer, tokens: int, dropping: bool) -> Seeds:
    """A seed for each projection, and for each chunk of the MLP anew: a mask depends on its seed alone."""

    def drawn(group: Group) -> list[int]:
        some = dropping and any(one.dropout for one in group.projections)
        return draw_seeds(len(group.projections)) if some else []

    chunks = [(drawn(layer.gate_up), drawn(layer.down)) for _ in layer.chunks(tokens)]
    return Seeds(drawn(layer.qkv), drawn(layer.out), chunks)

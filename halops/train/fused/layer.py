"""One decoder layer as one autograd function: norm, attention, norm, gated MLP, each with its residual.

A checkpointed layer keeps its input alone. Its backward pass computes the layer again but for the MLP's last product,
of which nothing needs the result, and uses each dequantized weight twice. The MLP goes a chunk of tokens at a time,
since its inner width is what takes memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halops.train import attention
from halops.train.fused.dropout import draw_seeds
from halops.train.fused.projection import Group
from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
from halops.train.fused.rotary import rotate
from halops.train.fused.swiglu import swiglu, swiglu_backward_

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


class Attended(NamedTuple):
    """What attention leaves for the backward pass."""

    qkv: Tensor
    out: Tensor
    seen: tuple[Tensor, ...]  # what the adapters of qkv and out made of their inputs, where a backward pass follows
    after: Tensor  # the residual after attention
    kept: tuple[Tensor, ...]
    matrices: tuple[Tensor, Tensor] | None = None  # of qkv and out, where the same pass goes on to use them


class Inner(NamedTuple):
    """What a chunk of the MLP leaves for the backward pass."""

    both: Tensor  # gate and up side by side, with room behind
    seen: tuple[Tensor, Tensor]  # what the adapters of gate and up, and of down, made of their inputs


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
        attended = _attend(x, layer, rows, seeds, layer.keep)
        made, inner = _mlp(attended.after, layer, seeds)
        kept: tuple[Tensor, ...] = ()
        if layer.keep:
            chunks = [item for one in inner for item in (one.both, *one.seen)]
            kept = (*chunks, attended.qkv, attended.out, *attended.seen, attended.after, *attended.kept)
        ctx.save_for_backward(x, *kept)
        ctx.layer, ctx.rows, ctx.seeds = layer, rows, seeds
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer, rows, seeds = ctx.layer, ctx.rows, ctx.seeds
        x, *kept = ctx.saved_tensors
        if layer.keep:
            chunks = [kept[at : at + 3] for at in range(0, 3 * len(seeds.chunks), 3)]
            inner = [Inner(both, (up, down)) for both, up, down in chunks]
            qkv, out, *seen, after = kept[3 * len(chunks) :][:5]
            attended = Attended(qkv, out, tuple(seen), after, tuple(kept[3 * len(chunks) + 5 :]))
            del chunks
        else:
            attended, inner = _attend(x, layer, rows, seeds, True), []
        del kept
        grads: list[list[Tensor | None]] = [[None] * len(group.adapters) for group in layer.groups]
        outer = _mlp_backward(_with_room(grad, layer.down), attended.after, layer, seeds, inner, grads)
        made = _attend_backward(outer, x, attended, layer, rows, seeds, grads, ctx.needs_input_grad[0])
        found = [item for group in grads for item in group]
        given = [
            None if item is None else item.to(adapter.dtype)
            for item, adapter in zip(found, layer.adapters, strict=True)
        ]
        return made, None, None, None, *given


def _attend(x: Tensor, layer: Layer, rows: Rows, seeds: Seeds, learning: bool) -> Attended:
    """The layer's first half; `learning`: for a backward pass."""
    first, second = layer.qkv.matrix(), layer.out.matrix()
    given = _normed(x, layer.qkv, layer.first_norm, layer.eps, first, seeds.qkv)
    qkv = layer.qkv.forward(given, first)
    seen = [_seen(given, layer.qkv)] if learning else []
    del given
    query, key, value = _heads(qkv, layer)
    for heads in (query, key):
        rotate(heads, rows.cos, rows.sin, heads)
    out, kept = attention.forward(query, key, value, rows.bounds, rows.longest, layer.scaling)
    given = layer.out.input(len(out), out)
    given[:, : layer.out.columns] = out.flatten(1)
    layer.out.adapt(given[:, : layer.out.columns], second, seeds.out, given[:, layer.out.columns :])
    after = layer.out.forward(given, second, add=x)
    seen += [_seen(given, layer.out)] if learning else []
    return Attended(qkv, out, tuple(seen), after, kept, (first, second))


def _seen(filled: Tensor, group: Group) -> Tensor:
    """What the adapters made of a filled input, without holding on to the input."""
    return filled[:, group.columns :].clone()


def _normed(x: Tensor, group: Group, weight: Tensor, eps: float, matrix: Tensor, seed: int | None) -> Tensor:
    """x after its norm, as a filled input."""
    made = group.input(len(x), x)
    inner = made[:, : group.columns]
    group.adapt(rms_norm(x, weight, eps, inner), matrix, seed, made[:, group.columns :])
    return made


def _heads(qkv: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [T, heads, D], as views."""
    inner = qkv[:, : layer.qkv.rows].view(len(qkv), -1, layer.head_dim)
    keys = layer.heads + layer.kv_heads
    return inner[:, : layer.heads], inner[:, layer.heads : keys], inner[:, keys:]


def _gate_up(x: Tensor, layer: Layer, matrix: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
    """The MLP's input as it was filled, and gate and up side by side, with room behind."""
    given = _normed(x, layer.gate_up, layer.second_norm, layer.eps, matrix, seed)
    both = layer.gate_up.output(len(x), x)
    layer.gate_up.forward(given, matrix, out=both[:, : layer.gate_up.rows])
    return given, both


def _mlp(x: Tensor, layer: Layer, seeds: Seeds) -> tuple[Tensor, list[Inner]]:
    """With the residual; and what each chunk leaves, if the layer keeps it."""
    wide, narrow = layer.gate_up.matrix(), layer.down.matrix()
    made, inner = torch.empty_like(x), []
    for part, (first, second) in _parts(layer, len(x), seeds):
        given, both = _gate_up(x[part], layer, wide, first)
        product = layer.down.input(len(both), both)
        swiglu(both[:, : layer.gate_up.rows], product[:, : layer.down.columns])
        layer.down.adapt(product[:, : layer.down.columns], narrow, second, product[:, layer.down.columns :])
        layer.down.forward(product, narrow, add=x[part], out=made[part])
        if layer.keep:
            inner.append(Inner(both, (_seen(given, layer.gate_up), _seen(product, layer.down))))
        del given, both, product  # before the next ones are made
    return made, inner


def _mlp_backward(
    grad: Tensor, x: Tensor, layer: Layer, seeds: Seeds, inner: Sequence[Inner], grads: list[list[Tensor | None]]
) -> Tensor:
    """The gradient in the residual after attention, [T, H + room], as `layer.out` takes it; `grad` as `layer.down`."""
    wide, narrow = layer.gate_up.matrix(), layer.down.matrix()
    upper, lower = grads[2:]
    made = layer.out.output(len(grad), grad)
    for index, (part, (first, second)) in enumerate(_parts(layer, len(x), seeds)):
        kept = inner[index] if inner else None
        given, both = (None, kept.both) if kept else _gate_up(x[part], layer, wide, first)
        outer = grad[part]
        layer.down.fill(outer, narrow)
        product = swiglu_backward_(layer.down.backward(outer, narrow, second), both[:, : layer.gate_up.rows])
        room = product.new_empty(len(product), layer.down.extra)
        seen = kept.seen[1] if kept else layer.down.adapt(product, narrow, second, room)
        layer.down.learn(outer, product, seen, second, lower)
        del outer, product, room, seen
        layer.gate_up.fill(both, wide)
        in_norm = layer.gate_up.backward(both, wide, first)
        if given is None:
            given = rms_norm(x[part], layer.second_norm, layer.eps, torch.empty_like(x[part]))
        seen = kept.seen[0] if kept else given[:, layer.gate_up.columns :]
        layer.gate_up.learn(both, given[:, : layer.gate_up.columns], seen, first, upper)
        del both, given, seen, kept
        target = made[part, : layer.out.rows]
        past = grad[part, : layer.down.rows]
        rms_norm_backward(in_norm, x[part], layer.second_norm, layer.eps, past, target)
    return made


def _attend_backward(
    outer: Tensor, x: Tensor, attended: Attended, layer: Layer, rows: Rows, seeds: Seeds,
    found: list[list[Tensor | None]], wanted: bool,
) -> Tensor | None:  # fmt: skip
    first, second = attended.matrices or (layer.qkv.matrix(), layer.out.matrix())
    layer.out.fill(outer, second)
    layer.out.learn(outer, attended.out.flatten(1), attended.seen[1], seeds.out, found[1])
    in_out = layer.out.backward(outer, second, seeds.out)
    query, key, value = attention.backward(
        in_out.view_as(attended.out), *_heads(attended.qkv, layer), rows.bounds, attended.out, attended.kept,
        rows.longest, layer.scaling,
    )  # fmt: skip
    del in_out
    in_qkv = layer.qkv.output(len(x), x)
    targets = _heads(in_qkv, layer)
    rotate(query, rows.cos, rows.sin, targets[0], backward=True)
    rotate(key, rows.cos, rows.sin, targets[1], backward=True)
    targets[2].copy_(value)
    del query, key, value
    layer.qkv.fill(in_qkv, first)
    given = rms_norm(x, layer.first_norm, layer.eps, torch.empty_like(x))
    layer.qkv.learn(in_qkv, given, attended.seen[0], seeds.qkv, found[0])
    del given
    if not wanted:
        return None
    in_norm = layer.qkv.backward(in_qkv, first, seeds.qkv)
    wide = layer.down.output(len(x), x)
    made = wide[:, : layer.down.rows]
    rms_norm_backward(in_norm, x, layer.first_norm, layer.eps, outer[:, : layer.out.rows], made)
    setattr(made, WIDE, wide)
    return made


def _with_room(grad: Tensor, group: Group) -> Tensor:
    """A gradient [T, O] with its room: where the layer above made it so, without a copy."""
    wide: Tensor | None = getattr(grad, WIDE, None)
    if wide is None or wide.shape[1] != group.rows + group.extra:
        wide = group.output(len(grad), grad)
        wide[:, : group.rows] = grad
    return wide


def _parts(layer: Layer, tokens: int, seeds: Seeds) -> Iterator[tuple[slice, tuple[int | None, int | None]]]:
    return zip(layer.chunks(tokens), seeds.chunks, strict=True)


def _seeds(layer: Layer, tokens: int, dropping: bool) -> Seeds:
    """A seed for each group, and for each chunk of the MLP anew: a mask depends on its seed alone."""
    groups = [layer.qkv, layer.out, *[layer.gate_up, layer.down] * len(layer.chunks(tokens))]
    drops = [dropping and group.drops for group in groups]
    drawn = draw_seeds(len(groups)) if any(drops) else [0] * len(groups)
    qkv, out, *inner = [seed if wanted else None for seed, wanted in zip(drawn, drops, strict=True)]
    return Seeds(qkv, out, list(zip(inner[::2], inner[1::2], strict=True)))

"""One decoder layer as one autograd function: norm, attention, norm, gated MLP, each with its residual.

A checkpointed layer keeps its input and what its adapters made of theirs, a hundredth of what it computes; if wanted,
what attention computed, too. Its backward pass computes the layer again but for that and the MLP's last product, of
which nothing needs the result, and uses each dequantized weight twice. The MLP goes a chunk of tokens at a time, since
its inner width is what takes memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halops.train.fused.attend import Attended, attend, attend_backward
from halops.train.fused.mlp import mlp, mlp_backward
from halops.train.fused.parts import Layer, Rows, Seeds, handed_down, seeds_for, with_room
from halops.train.fused.projection import Grads


def decoder_layer(x: Tensor, layer: Layer, rows: Rows, dropping: bool) -> Tensor:
    """x [..., H] -> the same shape; the tokens are those of `rows` in order.

    No view is made outside: a gradient must reach the next layer as this one made it, see `with_room`.

    Args:
        dropping: whether the adapters' dropout is on.
    """
    made: Tensor = DecoderLayer.apply(x, layer, rows, seeds_for(layer, x.shape[:-1].numel(), dropping), *layer.adapters)
    return made


class DecoderLayer(torch.autograd.Function):
    """Gradients in x and in the adapters; everything else is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, rows: Rows, seeds: Seeds, *adapters: Tensor) -> Tensor:
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        keeps, room = layer.keeps(len(x)), layer.room(len(x), x)
        seen = layer.seen_by(room)
        layer.load()
        attended = attend(x, layer, rows, seeds, seen)
        made, both = mlp(attended.after, layer, seeds, seen, keeps.mlp)
        kept = (attended.qkv, attended.out, attended.after, *attended.kept) if keeps.attention else ()
        if layer.away:
            ctx.waiting = layer.away.keep(layer.index, (x, room, both, *kept), len(x))
        else:
            ctx.save_for_backward(x, room, both, *kept)
        ctx.layer, ctx.rows, ctx.seeds = layer, rows, seeds
        return made.view(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer, rows, seeds = ctx.layer, ctx.rows, ctx.seeds
        x, room, both, *kept = layer.away.bring(ctx.waiting) if layer.away else ctx.saved_tensors
        seen = layer.seen_by(room)
        if not layer.qkv.resident:  # else they are as the forward pass left them
            layer.load()
        if kept:
            qkv, out, after, *kept = kept
            attended = Attended(qkv, out, after, tuple(kept))
        else:
            attended = attend(x, layer, rows, seeds, seen, again=True)
        grads: list[Grads] = [[None] * len(group.adapters) for group in layer.groups]
        outer = mlp_backward(with_room(grad, layer.down), attended.after, layer, seeds, seen, both, grads)
        made = attend_backward(outer, x, attended, layer, rows, seeds, seen, grads, ctx.needs_input_grad[0])
        found = [item for group in grads for item in group]
        given = [
            None if item is None else item.to(adapter.dtype)
            for item, adapter in zip(found, layer.adapters, strict=True)
        ]
        return None if made is None else handed_down(made, layer.down, grad.shape), None, None, None, *given

"""One decoder layer as one autograd function: norm, attention, norm, gated MLP, each with its residual.

A checkpointed layer keeps its input and what its adapters made of theirs, a hundredth of what it computes. Its backward
pass computes the layer again but for that and the MLP's last product, of which nothing needs the result, and uses each
dequantized weight twice. The MLP goes a chunk of tokens at a time, since its inner width is what takes memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halops.train.fused.attend import Attended, attend, attend_backward
from halops.train.fused.mlp import Inner, mlp, mlp_backward
from halops.train.fused.parts import Layer, Rows, Seeds, seeds_for, with_room


def decoder_layer(x: Tensor, layer: Layer, rows: Rows, dropping: bool) -> Tensor:
    """x [T, H] -> [T, H].

    Args:
        dropping: whether the adapters' dropout is on.
    """
    made: Tensor = DecoderLayer.apply(x, layer, rows, seeds_for(layer, len(x), dropping), *layer.adapters)
    return made


class DecoderLayer(torch.autograd.Function):
    """Gradients in x and in the adapters; everything else is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, rows: Rows, seeds: Seeds, *adapters: Tensor) -> Tensor:
        attended = attend(x, layer, rows, seeds)
        made, inner = mlp(attended.after, layer, seeds)
        kept: tuple[Tensor | None, ...] = ()
        if layer.keep:
            kept = (*(one.both for one in inner), attended.qkv, attended.out, attended.after, *attended.kept)
        seen = *attended.seen, *(item for one in inner for item in (one.in_gate_up, one.in_down))
        ctx.save_for_backward(x, *seen, *kept)
        ctx.layer, ctx.rows, ctx.seeds = layer, rows, seeds
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer, rows, seeds, chunks = ctx.layer, ctx.rows, ctx.seeds, len(ctx.seeds.chunks)
        x, in_qkv, in_out, *kept = ctx.saved_tensors
        in_gate_up, in_down, kept = kept[: 2 * chunks : 2], kept[1 : 2 * chunks : 2], kept[2 * chunks :]
        both: list[Tensor | None] = [None] * chunks
        if layer.keep:
            both, (qkv, out, after, *kept) = kept[:chunks], kept[chunks:]
            attended = Attended(qkv, out, (in_qkv, in_out), after, tuple(kept))
        else:
            attended = attend(x, layer, rows, seeds, (in_qkv, in_out))
        inner = [Inner(*item) for item in zip(both, in_gate_up, in_down, strict=True)]
        del kept, both
        grads: list[list[Tensor | None]] = [[None] * len(group.adapters) for group in layer.groups]
        outer = mlp_backward(with_room(grad, layer.down), attended.after, layer, seeds, inner, grads)
        made = attend_backward(outer, x, attended, layer, rows, seeds, grads, ctx.needs_input_grad[0])
        found = [item for group in grads for item in group]
        given = [
            None if item is None else item.to(adapter.dtype)
            for item, adapter in zip(found, layer.adapters, strict=True)
        ]
        return made, None, None, None, *given

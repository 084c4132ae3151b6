"""Causal attention over rows that lie end to end, registered with transformers as the attention `halops_rows`.

transformers' own `sdpa` builds a block-diagonal mask from the positions: right, but it computes every row against
every other one. On CUDA torch's variable-length flash attention takes the rows' bounds instead, or cuDNN full rows
(full_rows.py); anywhere else each row goes through SDPA by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from halops.train import full_rows

NAME = "halops_rows"
FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_CAPABILITY = (8, 0)
FLASH_HEAD_DIM = 256


def register() -> str:
    """Make it known to transformers; returns the name for `attn_implementation`.

    There is no mask function by that name, so transformers makes no mask at all.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention_forward)
    return NAME


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' signature: query [B, heads, S, D], key and value with as many or fewer heads; [B, S, heads, D]."""
    if cu_seq_lens_q is None or max_length_q is None:
        out = scaled_dot_product_attention(
            query, key, value, attention_mask, dropout, attention_mask is None and query.shape[2] > 1, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return out.transpose(1, 2).contiguous(), None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return rows_attention(q, k, v, cu_seq_lens_q, max_length_q, scaling)[None], None


def rows_attention(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float | None) -> Any:
    """Attention of each row to itself: query [T, heads, D], key and value [T, fewer heads, D], bounds [rows + 1]."""
    if not flash(query):
        return _by_row(query, key, value, _spans(bounds), scale)
    return RowsAttention.apply(query, key, value, bounds, longest, scale)


class RowsAttention(torch.autograd.Function):
    """Keeps what its backward pass needs: the output and the log-sum-exp of the scores, not the scores."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float | None
    ) -> Tensor:
        out, kept = forward(query, key, value, bounds, longest, scale)
        ctx.save_for_backward(query, key, value, bounds, out, *kept)
        ctx.longest, ctx.scale = longest, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bounds, out, *kept = ctx.saved_tensors
        return *backward(grad, query, key, value, bounds, out, kept, ctx.longest, ctx.scale), None, None, None


def flash(query: Tensor) -> bool:
    """Whether torch's flash attention takes it: 16 bits, a GPU since Ampere."""
    return (
        query.is_cuda
        and query.dtype in FLASH_DTYPES
        and query.shape[-1] <= FLASH_HEAD_DIM
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )


def forward(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and what `backward` needs beside it: the log-sum-exp of the scores first."""
    if query.is_meta:
        return query.new_empty(query.shape), (query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32),)
    if flash(query):
        if full_rows.applies(query, len(bounds) - 1, longest):
            return full_rows.forward(query, key, value, longest, scale)
        out, sums, state, unused, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, 0.0, True, False, scale=scale
        )
        return out, (sums, state, unused)
    with torch.no_grad():
        return _by_row(query, key, value, _spans(bounds), scale), ()


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    out: Tensor,
    kept: Sequence[Tensor],
    longest: int,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in query, key and value."""
    if query.is_meta:
        # What either makes beside its result (measured alike): dq in fp32, dk and dv for every query head.
        scratch = [query.new_empty(query.shape, dtype=dtype) for dtype in (torch.float32, query.dtype, query.dtype)]
        made = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
        del scratch
        return made
    if flash(query):
        if full_rows.applies(query, len(bounds) - 1, longest):
            return full_rows.backward(grad, query, key, value, out, kept, longest, scale)
        grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            grad.contiguous(), query, key, value, out, kept[0], bounds, bounds, longest, longest, 0.0, True, kept[1],
            kept[2], scale=scale,
        )  # fmt: skip
        return grads
    with torch.enable_grad():
        q, k, v = (tensor.detach().requires_grad_() for tensor in (query, key, value))
        again = _by_row(q, k, v, _spans(bounds), scale)
    first, second, third = torch.autograd.grad(again, (q, k, v), grad)
    return first, second, third


def _spans(bounds: Tensor) -> list[tuple[int, int]]:
    return list(itertools.pairwise(bounds.tolist()))


def _by_row(query: Tensor, key: Tensor, value: Tensor, spans: list[tuple[int, int]], scale: float | None) -> Tensor:
    parts = []
    for start, end in spans:
        q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        gqa = query.shape[1] != key.shape[1]
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)

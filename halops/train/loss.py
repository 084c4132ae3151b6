"""Cross entropy of a linear head in chunks, so that logits of a whole sequence never exist.

For hidden states h [N, H], a frozen head W [V, H] and targets t [N], the loss is the sum over n of
logsumexp(z_n) - z_n[t_n] with z_n = W h_n, and its gradient in h_n is W^T (softmax(z_n) - onehot(t_n)).
Both come from one pass: while a chunk's logits are there, they are turned into their own gradient in place and
projected back, so the backward pass has nothing left to recompute.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from halops.train.fused.launch import by_triton

IGNORED = -100  # a label that is not trained on, as everywhere in transformers
# Of a chunk's logits, in the dtype that they are held in: as many rows as a GPU's matrix products need, about 1,000
# with 152,064 columns; a CPU wants them in its caches.
CHUNK_BYTES = {"cuda": 320 * 2**20, "cpu": 16 * 2**20}
ALIGNED = 128  # rows of a chunk, where there are so many


def chunk_rows(longest: int, vocab_size: int, limit_bytes: int, element: int = 4) -> int:
    """Rows of logits that are made at once: within the limit, and fewer than the longest sequence has.

    Args:
        longest: tokens of the longest sequence of the batch.
        vocab_size: columns of the logits.
        limit_bytes: bound on a chunk's logits.
        element: bytes of a logit.
    """
    rows = min(limit_bytes // (element * vocab_size), longest // 2)
    return max(1, rows // ALIGNED * ALIGNED if rows > ALIGNED else rows)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies, divided by `total`. The head gets no gradient: it is frozen under LoRA."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        total: Tensor | float,
        rows: int,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        # fp16 has no room below 6e-8: its gradient waits in fp32 for the loss scaler's factor.
        kept = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
        grad = torch.empty(hidden.shape, dtype=kept, device=hidden.device) if wanted else None
        product = weight.new_empty(min(rows, len(hidden)), len(weight))
        wide = by_triton(weight) or weight.dtype == torch.float32  # the kernel computes in fp32 without a copy
        logits = product if wide else torch.empty_like(product, dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            part = slice(start, min(start + rows, len(hidden)))
            count = part.stop - part.start
            raw, z = product[:count], logits[:count]
            torch.mm(hidden[part].to(weight.dtype), weight.t(), out=raw)
            if bias is not None:
                raw += bias
            if raw is not z:
                z.copy_(raw)
            loss += (_by_triton if by_triton(weight) else _reduce)(z, targets[part], scale, softcap, wanted)
            if grad is not None:
                if raw is not z:
                    raw.copy_(z)
                grad[part] = (raw @ weight).to(kept).div_(total)
        if grad is not None:
            ctx.save_for_backward(grad)
            ctx.dtype = hidden.dtype
        return (loss / total).to(torch.float32)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]  # torch leaves it untyped
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return (grad * outer).to(ctx.dtype), None, None, None, None, None, None, None


def _by_triton(z: Tensor, targets: Tensor, scale: float, softcap: float | None, wanted: bool) -> Tensor:
    """What `_reduce` does, in one kernel."""
    from halops.train.fused.cross_entropy_triton import cross_entropy_

    losses: Tensor = cross_entropy_(z, targets, scale, softcap, wanted)
    return losses.sum(dtype=torch.float64)


def _reduce(z: Tensor, targets: Tensor, scale: float, softcap: float | None, wanted: bool) -> Tensor:
    """Sum of a chunk's losses; `z` [n, V], fp32, becomes the gradient in the raw logits if that is wanted."""
    if scale != 1:
        z.mul_(scale)
    slope = None
    if softcap:
        z.div_(softcap).tanh_()
        slope = 1 - z * z if wanted else None
        z.mul_(softcap)
    picked = z.gather(1, targets[:, None])
    top = z.amax(1, keepdim=True)
    mass = z.sub_(top).exp_().sum(1, keepdim=True)
    loss = (mass.log() + top - picked).sum(dtype=torch.float64)
    if wanted:
        z.div_(mass)
        z.scatter_add_(1, targets[:, None], z.new_full((len(z), 1), -1.0))
        if slope is not None:
            z.mul_(slope)
        if scale != 1:
            z.mul_(scale)
    return loss


def chunked_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    total: Tensor | float | None = None,
    *,
    trained: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    limit_bytes: int | None = None,
) -> Tensor:
    """Next-token cross entropy over the trained positions, in nats, as fp32 scalar.

    Args:
        hidden: [B, S, H], the decoder's last hidden states, any float dtype.
        weight: [V, H], the head; frozen.
        bias: [V] or None.
        labels: [B, S], int64, IGNORED where there is no loss; position i is predicted from i - 1.
        total: what the sum is divided by; the count of trained tokens in this batch if None.
        trained: [N], int64: the positions b * S + i - 1 from which a trained token is predicted; found from the
            labels if None, at the price of waiting for the GPU.
        scale, softcap: logits become softcap * tanh(scale * z / softcap), as some families want.
        limit_bytes: bound on a chunk's logits; a default by device if None.
    """
    if trained is None:
        row, before = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        trained = row * labels.shape[1] + before
    if total is None:
        total = float(max(1, len(trained)))
    limit = limit_bytes or CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"])
    element = weight.element_size() if by_triton(weight) else 4
    rows = chunk_rows(hidden.shape[1], len(weight), limit, element)
    chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, trained)
    targets = labels.reshape(-1).index_select(0, trained + 1)
    result: Tensor = ChunkedCrossEntropy.apply(chosen, weight, bias, targets, total, rows, scale, softcap)
    return result

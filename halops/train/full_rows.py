"""cuDNN's attention, for micro-batches of full rows on Hopper and Blackwell data-centre GPUs.

On an H100 it takes 0.57 times what torch's flash attention does (4 x 4096, Qwen2.5-7B's heads:
`python -m bench.train.kernels`). It wants rows of one length, and plans anew for each shape, which takes a second or
so: hence only lengths that come again, the multiples of STEP, as `max_seq_length` usually is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEP = 512  # tokens
MAJORS = (9, 10)  # compute capabilities for which torch itself prefers it; unmeasured on others
HEAD_DIM = 128


def applies(query: Tensor, rows: int, longest: int) -> bool:
    """Whether cuDNN is faster, for `rows` rows of at most `longest` tokens that flash attention takes too."""
    return query.is_cuda and are_full(len(query), rows, longest) and _supported(query)


def are_full(tokens: int, rows: int, longest: int) -> bool:
    """Whether all rows have one length, and one that comes again."""
    return longest % STEP == 0 and rows * longest == tokens > 0


def _supported(query: Tensor) -> bool:
    return (
        query.shape[-1] <= HEAD_DIM
        and torch.cuda.get_device_capability(query.device)[0] in MAJORS
        and bool(torch.backends.cudnn.is_available())  # type: ignore[no-untyped-call]
    )


def forward(
    query: Tensor, key: Tensor, value: Tensor, longest: int, scale: float | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Query [T, heads, D], key and value [T, fewer heads, D]; output [T, heads, D], and what `backward` needs."""
    q, k, v = (_rows(tensor, longest) for tensor in (query, key, value))
    made = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, False, scale=scale)
    return _flat(made[0]), (made[1], made[6], made[7])


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    kept: Sequence[Tensor],
    longest: int,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in query, key and value, shaped as these."""
    g, q, k, v, o = (_rows(tensor, longest) for tensor in (grad.contiguous(), query, key, value, out))
    sums, seed, offset = kept
    first, second, third = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        g, q, k, v, o, sums, seed, offset, None, None, None, longest, longest, 0.0, True, scale=scale
    )
    return _flat(first), _flat(second), _flat(third)


def _rows(tensor: Tensor, longest: int) -> Tensor:
    """[T, heads, D] as [rows, heads, longest, D], without a copy."""
    return tensor.view(-1, longest, *tensor.shape[1:]).transpose(1, 2)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).flatten(0, 1)

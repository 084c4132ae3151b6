"""4-bit weights to the dtype they are computed with, straight into a part of a larger matrix.

The values are those of bitsandbytes' own dequantization: code[nibble] * scale, the scale itself dequantized where it
is quantized too (double quantization).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halops.train.fused.launch import by_triton


def dequantize(weight: Any, out: Tensor) -> Tensor:
    """Write a bitsandbytes 4-bit parameter, or a plain one, into `out` [rows, columns], whose rows may lie apart."""
    if out.is_meta:
        return out
    state = getattr(weight, "quant_state", None)
    if state is None:
        return out.copy_(weight)
    if by_triton(out) and out.shape[1] % state.blocksize == 0:
        from halops.train.fused import dequantize_triton

        dequantize_triton.dequantize(weight.data, state, out)
        return out
    from bitsandbytes.functional import dequantize_4bit

    return out.copy_(dequantize_4bit(weight.data, state))

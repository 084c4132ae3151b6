"""On a CPU: NF4 weights dequantized once, instead of in each forward and backward pass. The same values, faster.

Only what is computed from is kept beside; the quantized weights stay what they are, and so does every result.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

MOST_BYTES = 2 * 2**30  # of dequantized weights; a larger model is dequantized as it goes


def hold_dequantized(model: Any) -> int:
    """Let each Linear4bit of `model` multiply by a weight that is dequantized now. Returns the bytes held.

    Nothing is held, and 0 returned, where it would take more than MOST_BYTES.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    size: int = sum(layer.in_features * layer.out_features * _width(layer) for layer in layers)
    if size > MOST_BYTES:
        return 0
    for layer in layers:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(_compute(layer))
        layer.forward = functools.partial(_forward, layer, weight)
    return size


def _forward(layer: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """What Linear4bit.forward does, less the dequantization: compute in its dtype, answer in the input's."""
    bias = None if layer.bias is None else layer.bias.to(weight.dtype)
    return torch.nn.functional.linear(inputs.to(weight.dtype), weight, bias).to(inputs.dtype)


def _compute(layer: Any) -> torch.dtype:
    dtype: torch.dtype = layer.compute_dtype or torch.float32
    return dtype


def _width(layer: Any) -> int:
    return _compute(layer).itemsize

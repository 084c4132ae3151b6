"""Weights that are dequantized once give what bitsandbytes gives each time."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit

from halops.train import dequantized
from halops.train.dequantized import hold_dequantized


@pytest.fixture
def layer() -> Linear4bit:
    torch.manual_seed(0)
    layer = Linear4bit(64, 128, bias=True, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True)
    weight = torch.randn(128, 64)
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer)
    return layer.to("cpu")


def test_outputs_and_gradients_are_the_same(layer: Linear4bit) -> None:
    results = []
    for hold in (False, True):
        if hold:
            assert hold_dequantized(torch.nn.Sequential(layer)) == 64 * 128 * 4
        inputs = torch.linspace(-1, 1, 40 * 64).reshape(40, 64).requires_grad_()
        output = layer(inputs)
        output.square().sum().backward()
        results.append((output.detach(), inputs.grad))
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


def test_the_quantized_weight_stays(layer: Linear4bit) -> None:
    before = layer.weight.data.clone()
    hold_dequantized(torch.nn.Sequential(layer))
    assert layer.weight.dtype == torch.uint8
    assert torch.equal(layer.weight.data, before)


def test_a_large_model_is_left_alone(layer: Linear4bit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantized, "MOST_BYTES", 100)
    assert hold_dequantized(torch.nn.Sequential(layer)) == 0
    assert "forward" not in vars(layer)

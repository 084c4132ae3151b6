"""Masks of the adapters' dropout: functions of a seed, the same ones on a CPU and a GPU."""

from __future__ import annotations

import pytest
import torch

from halops.train.fused.dropout import Masks, add_products_back_, philox, products, random_16_bits, weight_gradient


@pytest.mark.parametrize(
    ("rounds", "words"),
    [(10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"), (7, "5f6fb709 0d893f64 4f121f81 4f730a48")],
)
def test_philox_gives_its_authors_numbers(rounds: int, words: str) -> None:
    """Known answers that come with Random123, its authors' library: counter and key zero."""
    found = philox(torch.tensor([0]), 0, 0, rounds)[0].tolist()
    assert found == [int(word, 16) for word in words.split()]


def test_the_share_is_dropped_in_each_row_and_column() -> None:
    kept = Masks(7, 0.3, (4,)).mask(0, torch.empty(400, 403)) != 0
    assert float(kept.double().mean()) == pytest.approx(0.7, abs=0.005)
    for axis in (0, 1):
        assert float((kept.double().mean(axis) - 0.7).abs().max()) < 0.12
    neighbours = [kept[:, 1:] & kept[:, :-1], kept[1:] & kept[:-1]]
    assert [float(both.double().mean()) for both in neighbours] == pytest.approx([0.49, 0.49], abs=0.01)


def test_a_mask_depends_on_seed_adapter_and_place_alone() -> None:
    first = random_16_bits(7, 0, 20, 50)
    assert torch.equal(first[:9], random_16_bits(7, 0, 9, 50))
    assert torch.equal(first, random_16_bits(7, 0, 20, 50))
    for other in (random_16_bits(8, 0, 20, 50), random_16_bits(7, 1, 20, 50), first.roll(1, 0), first.roll(8, 1)):
        assert float((other == first).double().mean()) < 0.01


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.05, 0.999999, 1.0])
def test_what_is_kept_makes_up_for_what_is_dropped(p: float) -> None:
    masks = Masks(3, p, (4,))
    assert (masks.scale - 1) * (1 - masks.threshold / 2**16) == pytest.approx(masks.threshold / 2**16)
    assert masks.threshold / 2**16 == pytest.approx(min(p, 1 - 2**-16), abs=2**-17)


def test_each_adapter_s_products_have_its_own_mask() -> None:
    """Forward and both gradients, adapters of unlike rank, against autograd."""
    masks, x = Masks(5, 0.4, (3, 2)), torch.randn(11, 13, dtype=torch.float64)
    a, outer = torch.randn(6, 13, dtype=torch.float64), torch.randn(11, 6, dtype=torch.float64)
    leaf, weights = x.clone().requires_grad_(), a.clone().requires_grad_()
    expected = torch.cat([(leaf * masks.mask(number, x)) @ weights[ranks].t() for number, ranks in masks.adapters()], 1)
    expected.backward(outer[:, :5])
    found = products(x, a, masks, torch.full((11, 6), 9.0, dtype=torch.float64))
    assert torch.allclose(found[:, :5], expected)
    assert not found[:, 5].any()
    assert leaf.grad is not None
    assert weights.grad is not None
    assert torch.allclose(add_products_back_(torch.ones_like(x), outer, a, masks), 1 + leaf.grad)
    assert torch.allclose(weight_gradient(outer, x, masks), weights.grad[:5])
    assert not torch.equal(masks.mask(0, x), masks.mask(1, x))

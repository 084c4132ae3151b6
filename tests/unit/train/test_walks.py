"""Modes and gradients of a whole model, set without a walk where that changes nothing."""

from __future__ import annotations

import torch
from torch import nn

from halops.train.walks import shorten_walks


class Counting(nn.Sequential):
    walks = 0

    def train(self, mode: bool = True) -> Counting:
        self.walks += 1
        return super().train(mode)


def model() -> Counting:
    made = Counting(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    made[2].requires_grad_(False)
    return made


def test_a_mode_is_walked_for_once() -> None:
    made = model()
    made[1].eval()  # under a whole that says it is in training: only a walk finds it
    shorten_walks(made)
    assert made.train() is made
    assert made.train().walks == 1
    assert made[1].training
    assert not made.eval()[1].training
    assert made.eval().walks == 2
    assert made.train()[1].training
    assert made.walks == 3


def test_a_wrapper_s_walk_ends_at_the_model() -> None:
    """As DDP's does."""
    made = model()
    shorten_walks(made)
    wrapper = nn.Sequential(made)
    wrapper.train()
    wrapper.train()
    assert made.walks == 1
    wrapper.eval()
    assert not made[1].training


def test_the_trained_parameters_gradients_are_cleared() -> None:
    made = model()
    assert shorten_walks(made) == list(made[0].parameters())
    made(torch.ones(3, 2)).sum().backward()
    held = made[0].weight.grad
    made.zero_grad(set_to_none=False)
    assert made[0].weight.grad is held
    assert not held.any()
    made.zero_grad()
    assert all(item.grad is None for item in made.parameters())

"""The chunked loss against a reference in float64 with full logits."""

from __future__ import annotations

import itertools

import pytest
import torch

from halops.train.loss import IGNORED, chunk_rows, chunked_loss

BATCH, LENGTH, HIDDEN, VOCAB = 3, 11, 16, 97


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(BATCH, LENGTH, HIDDEN).to(dtype)
    weight, bias = torch.randn(VOCAB, HIDDEN).to(dtype), torch.randn(VOCAB).to(dtype)
    labels = torch.randint(0, VOCAB, (BATCH, LENGTH))
    labels[torch.rand(BATCH, LENGTH) < 0.5] = IGNORED
    labels[:, 0] = IGNORED
    return hidden, weight, bias, labels


def reference(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor,
    total: float | None, scale: float, softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Loss and gradient in the hidden states, in float64."""
    states = hidden.double().requires_grad_()
    logits = states @ weight.double().t()
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    loss = loss / (total or (labels[:, 1:] != IGNORED).sum())
    loss.backward()
    assert states.grad is not None
    return loss.detach(), states.grad


@pytest.mark.parametrize(
    ("with_bias", "scale", "softcap", "total", "limit"),
    list(itertools.product([False, True], [1.0, 0.25], [None, 5.0], [None, 40.0], [4 * VOCAB, 4 * VOCAB * 4, 10**9])),
)
def test_loss_and_gradient_are_those_of_full_logits(
    with_bias: bool, scale: float, softcap: float | None, total: float | None, limit: int
) -> None:
    hidden, weight, bias, labels = problem()
    states = hidden.clone().requires_grad_()
    head_bias = bias if with_bias else None
    loss = chunked_loss(states, weight, head_bias, labels, total, scale=scale, softcap=softcap, limit_bytes=limit)
    (3 * loss).backward()
    expected, gradient = reference(hidden, weight, head_bias, labels, total, scale, softcap)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(states.grad, 3 * gradient.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bit_the_error_is_that_of_rounding(dtype: torch.dtype) -> None:
    hidden, weight, _, labels = problem(dtype)
    states = hidden.clone().requires_grad_()
    loss = chunked_loss(states, weight, None, labels, limit_bytes=4 * VOCAB * 3)
    loss.backward()
    expected, gradient = reference(hidden, weight, None, labels, None, 1.0, None)
    assert states.grad is not None
    assert states.grad.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    torch.testing.assert_close(states.grad.double(), gradient, rtol=0.05, atol=2e-3)


def test_micro_batches_add_up_to_the_step() -> None:
    """With the step's token count as `total`, accumulating gives what one batch would."""
    hidden, weight, _, labels = problem()
    total = float((labels != IGNORED).sum())
    whole, parts = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    chunked_loss(whole, weight, None, labels, total).backward()
    for row in range(BATCH):
        chunked_loss(parts[row : row + 1], weight, None, labels[row : row + 1], total).backward()
    torch.testing.assert_close(whole.grad, parts.grad)


def test_positions_given_are_those_found() -> None:
    hidden, weight, _, labels = problem()
    trained = (labels.reshape(-1) != IGNORED).nonzero().squeeze(1) - 1
    assert chunked_loss(hidden, weight, None, labels, trained=trained) == chunked_loss(hidden, weight, None, labels)


def test_nothing_to_train_on_is_a_loss_of_zero() -> None:
    hidden, weight, _, labels = problem()
    states = hidden.requires_grad_()
    loss = chunked_loss(states, weight, None, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert states.grad is not None
    assert not states.grad.any()


def test_a_chunk_is_smaller_than_a_sequence() -> None:
    assert chunk_rows(longest=1024, vocab_size=152064, limit_bytes=2**40) == 512
    assert chunk_rows(longest=2, vocab_size=10, limit_bytes=1) == 1
    assert chunk_rows(longest=1024, vocab_size=152064, limit_bytes=128 * 2**20) == 128  # of 220

"""The adapter as one parameter of the optimizer: the same bits as matrix by matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from halops.errors import ConfigError
from halops.train import arguments, trainer
from halops.train.flat import Flat, flatten
from tests.unit.train.conftest import Attempt, make_profile

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
SHAPES = [(16, 512), (512, 16), (16, 256), (1024, 16)]


def parameters(dtype: torch.dtype, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in shapes]


def gradients(steps: int, dtype: torch.dtype, seed: int = 1) -> Iterator[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield [torch.randn(shape, generator=draw).to(dtype) for shape in SHAPES]


def train(optimizer: Any, parts: Sequence[torch.nn.Parameter], found: Iterator[list[torch.Tensor]]) -> None:
    for grads in found:
        for part, grad in zip(parts, grads, strict=True):
            part.grad = grad
        optimizer.step()
        for part in parts:
            part.grad = None


def made(name: str, parts: Sequence[torch.nn.Parameter]) -> Any:
    from bitsandbytes import optim

    decay, rest = parts[:3], parts[3:]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}, {"params": []}]
    return getattr(optim, name)(groups, lr=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["PagedAdamW8bit", "AdamW8bit", "PagedLion8bit"])
def test_the_same_bits(name: str, dtype: torch.dtype) -> None:
    apart, together = parameters(dtype), parameters(dtype)
    first, second = made(name, apart), made(name, together)
    assert flatten(second)
    train(first, apart, gradients(6, dtype))
    train(second, together, gradients(6, dtype))
    assert [len(group["params"]) for group in second.param_groups] == [1, 1, 0]
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))
    assert not torch.equal(apart[0], parameters(dtype)[0])
    assert all(group["params"][0].grad is None for group in second.param_groups[:2])  # its memory is given back


def test_weights_that_are_loaded_in_place_are_the_optimizer_s() -> None:
    parts = parameters(torch.float32)
    optimizer = made("AdamW8bit", parts)
    flatten(optimizer)
    with torch.no_grad():
        parts[1].copy_(torch.full_like(parts[1], 3.0))
    size = parts[0].numel()
    assert optimizer.param_groups[0]["params"][0][size : size + parts[1].numel()].eq(3).all()


def test_weights_that_were_moved_are_the_optimizer_s_again() -> None:
    apart, moved = parameters(torch.float32), parameters(torch.float32)
    first, second = made("AdamW8bit", apart), made("AdamW8bit", moved)
    assert flatten(second)
    for part in moved[1:]:
        part.data = part.data.clone()  # as a model's `to` may do
    for optimizer, parts in ((first, apart), (second, moved)):
        parts[2].data.mul_(2)  # and what happens to them then counts
        train(optimizer, parts, gradients(3, torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(apart, moved, strict=True))


def test_a_saved_state_goes_on_exactly() -> None:
    parts = parameters(torch.float32)
    optimizer = made("PagedAdamW8bit", parts)
    flatten(optimizer)
    train(optimizer, parts, gradients(3, torch.float32))
    state, weights = copy.deepcopy(optimizer.state_dict()), [part.detach().clone() for part in parts]
    train(optimizer, parts, gradients(3, torch.float32, seed=2))
    again = [torch.nn.Parameter(weight) for weight in weights]
    other = made("PagedAdamW8bit", again)
    flatten(other)
    other.load_state_dict(state)
    train(other, again, gradients(3, torch.float32, seed=2))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_gradients_that_were_gathered_early_are_the_step_s() -> None:
    parts = parameters(torch.float32)
    optimizer = made("AdamW8bit", parts)
    flat = flatten(optimizer)
    assert flat
    parts[0].grad = torch.ones_like(parts[0])
    flat.gather()
    parts[0].grad = None  # the step doesn't look at it again
    optimizer.step()
    assert not torch.equal(parts[0], parameters(torch.float32)[0])


def test_a_missing_gradient_is_zero_and_none_at_all_is_no_step() -> None:
    parts = parameters(torch.float32)
    optimizer = made("AdamW8bit", parts)
    flatten(optimizer)
    optimizer.step()
    assert not optimizer.state
    parts[0].grad = torch.ones_like(parts[0])
    before = parts[1].detach().clone()
    optimizer.step()
    assert not torch.equal(parts[0], parameters(torch.float32)[0])
    assert torch.allclose(parts[1], before * (1 - 1e-2 * 0.1), atol=1e-6)  # weight decay alone


@pytest.mark.parametrize(
    "parts",
    [
        parameters(torch.float32, [(16, 512), (10, 500)]),  # no whole blocks
        parameters(torch.float32, [(16, 512), (16, 16)]),  # 32-bit states
        [*parameters(torch.float32, [(16, 512)]), *parameters(torch.bfloat16, [(16, 512)])],
    ],
    ids=["part of a block", "small", "dtypes"],
)
def test_what_would_come_out_otherwise_stays_apart(parts: list[torch.nn.Parameter]) -> None:
    from bitsandbytes.optim import AdamW8bit

    optimizer = AdamW8bit(parts)
    assert not flatten(optimizer)
    assert optimizer.param_groups[0]["params"] == parts


def test_torch_s_own_optimizers_stay_as_they_are() -> None:
    assert not flatten(torch.optim.AdamW(parameters(torch.float32)))


def test_a_training_stopped_between_ends_with_the_bits_of_one_matrix_by_matrix(
    attempt: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "CPU_OPTIMIZERS", arguments.CPU_OPTIMIZERS | {"paged_adamw_8bit"})
    profile = make_profile(training={"optim": "paged_adamw_8bit"}, lora={"r": 256, "lora_alpha": 256})
    made: list[Flat | None] = []
    monkeypatch.setattr(trainer, "flatten", lambda optimizer: made.append(flatten(optimizer)) or made[-1])
    stopped = attempt(profile, "kept")
    stopped.stop_at(5)
    with pytest.raises(Exception, match="stopped at step 5"):
        stopped.run()
    after = attempt(profile, "kept")
    after.run()
    assert [bool(one) for one in made] == [True, True]
    monkeypatch.setattr(trainer, "flatten", lambda optimizer: None)
    apart = attempt(profile)
    apart.run()
    assert after.curve() == apart.curve()
    assert after.adapter() == apart.adapter()


def test_a_checkpoint_of_another_layout_is_told_what_to_do_with(
    attempt: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "CPU_OPTIMIZERS", arguments.CPU_OPTIMIZERS | {"adamw_8bit"})
    profile = make_profile(training={"optim": "adamw_8bit"}, lora={"r": 256, "lora_alpha": 256})
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "flatten", lambda optimizer: None)
        stopped = attempt(profile, "kept")
        stopped.stop_at(3)
        with pytest.raises(Exception, match="stopped at step 3"):
            stopped.run()
    with pytest.raises(ConfigError, match="optimizer state"):
        attempt(profile, "kept").run()

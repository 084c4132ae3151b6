"""Activations in host memory: the same gradients, bit for bit, and memory of their own for each layer."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest
import torch

from halops.errors import HostError
from halops.train import pinned
from halops.train.fused import away as module
from halops.train.fused.away import Away
from halops.train.fused.install import install
from halops.train.packing import StepCollator
from halops.train.pinned import Pinned
from tests.unit.train.test_fused import FUSED, LENGTHS, spends
from tests.unit.train.test_packing import FAMILIES, adapted, gradients, rows_of


@pytest.fixture(autouse=True)
def everything_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 1)  # of tiny models' tensors, too


def trained(folder: Path, family: str, checkpointed: int, keep: bool, away: Away | None) -> Any:
    """Loss and gradients of two steps, the second of smaller micro-batches with the rows in reverse order."""
    model = adapted(folder, family, **FAMILIES[family] | {"num_hidden_layers": 3})
    install(model, spends(checkpointed, 13, keep), away=away)
    rows = rows_of(LENGTHS)
    return [gradients(model, [StepCollator(size)(some)]) for size, some in ((64, rows), (40, rows[::-1]))]


@pytest.mark.parametrize(
    ("family", "checkpointed", "keep"),
    [
        ("qwen2", 3, False),
        ("qwen2", 3, True),
        ("qwen2", 0, False),
        ("qwen2", 1, False),
        *((name, 1, True) for name in FUSED),
    ],
)
def test_gradients_are_the_same_bits(family: str, checkpointed: int, keep: bool, tmp_path: Path) -> None:
    away = Away(3, 64)
    made = (trained(tmp_path, family, checkpointed, keep, other) for other in (None, away))
    for (loss, expected), (again, found) in zip(*made, strict=True):
        assert again == loss
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sorted(away.memory) == [0, 1]  # the last layer's stay


def test_a_layer_keeps_its_memory_for_micro_batches_of_all_sizes(tmp_path: Path) -> None:
    """What a small one takes is enough for the budget; a row that is longer gets more."""
    model, away = adapted(tmp_path, "qwen2"), Away(2, 64)
    install(model, spends(2), away=away)

    def lies(*lengths: int) -> tuple[int, int]:
        gradients(model, [StepCollator(64)(rows_of(list(lengths)))])
        held = away.memory[0].bytes
        return held.data_ptr(), held.nbytes

    first = lies(5)
    assert lies(30, 30) == lies(64) == lies(7) == first
    assert lies(100)[1] > first[1]


def test_a_micro_batch_that_ended_early_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its forward pass alone, as when memory runs out."""
    model, away = adapted(tmp_path, "qwen2"), Away(2, 64)
    install(model, spends(2), away=away)
    step = StepCollator(64)(rows_of([30, 20]))
    _, expected = gradients(model, [step])
    model(**step["micro_batches"][0], num_items_in_batch=50.0)
    _, found = gradients(model, [step])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_is_too_small_to_be_worth_the_way_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 100)
    away = Away(3, 10)
    given = [torch.rand(10, 8), None, torch.rand(2), torch.rand(8, 10).t()]
    waiting = away.keep(0, given, 10)
    assert [item is None for item in waiting.here] == [True, True, False, True]
    small, large = waiting.here[2], given[0]
    found = away.bring(waiting)
    assert found[2] is small is given[2]
    assert found[1] is None
    assert found[0] is not large
    for number in (0, 3):
        assert torch.equal(found[number], given[number])  # type: ignore[arg-type]


def test_a_host_that_has_no_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pinned.mmap, "mmap", refused)
    with pytest.raises(HostError, match=r"no 3\.0 GB for activations: .*Cannot allocate") as caught:
        Pinned(3 * 10**9, cuda=False)
    assert "host_memory_gib" in str(caught.value)


def test_it_takes_the_bytes_that_are_asked_for() -> None:
    held = Pinned(5000, cuda=False).bytes
    assert (held.nbytes, held.dtype) == (5000, torch.uint8)
    assert held.data_ptr() % mmap.PAGESIZE == 0

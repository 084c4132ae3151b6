"""Rows end to end: few micro-batches, each row by itself, the gradient of a step the classic one's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from halops.train.isolation import rows_stay_apart
from halops.train.loss import IGNORED
from halops.train.model import load_model, read_config
from halops.train.packing import StepCollator, bins, lay, padded_bins
from halops.train.rows import Row
from tests.unit.train.conftest import make_model, make_profile

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {}, "llama": {}, "mistral": {"sliding_window": None}, "phi3": {}, "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 8}, "gemma3_text": {"query_pre_attn_scalar": 8}, "granite": {},
}  # fmt: skip


def rows_of(lengths: list[int], seed: int = 3, vocab: int = 320) -> list[Row]:
    choose = random.Random(seed)
    made = []
    for length in lengths:
        ids = tuple(choose.randrange(3, vocab) for _ in range(length))
        made.append(Row(ids, tuple(IGNORED if index < length // 2 else ids[index] for index in range(length))))
    return made


def test_bins_are_few_and_within_the_budget() -> None:
    choose = random.Random(1)
    for _ in range(50):
        lengths = [choose.randrange(1, 100) for _ in range(choose.randrange(1, 20))]
        groups = bins(lengths, 120)
        assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
        assert all(sum(lengths[index] for index in group) <= 120 for group in groups)
        assert len(groups) <= -(-3 * sum(lengths) // (2 * 120)) + 1
    assert bins([60, 60, 60, 60], 120) == [[0, 1], [2, 3]]
    assert bins([10, 500, 20], 120) == [[1], [0, 2]]  # what is longer than the budget goes alone
    assert bins([], 120) == []


def test_padded_bins_count_padding() -> None:
    assert padded_bins([60, 10, 10], 120) == [[0, 1], [2]]
    assert padded_bins([300], 120) == [[0]]


def test_rows_lie_end_to_end() -> None:
    batch = lay([Row((5, 6, 7), (IGNORED, 6, IGNORED)), Row((8, 9), (IGNORED, 9))])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED, IGNORED, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["trained"].tolist() == [0, 3]  # 6 is predicted from 5, 9 from 8
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5]
    assert batch["max_length_q"] == 3


def test_a_step_without_rows_trains_nothing() -> None:
    step = StepCollator(64)([])
    assert step["tokens"] == step["trained"] == 0
    (part,) = step["micro_batches"]
    assert (part["labels"] == IGNORED).all()


def gradients(model: Any, steps: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one optimizer step, whatever its micro-batches."""
    model.zero_grad()
    total = float(sum(step["trained"] for step in steps))
    loss = 0.0
    for step in steps:
        for part in step["micro_batches"]:
            one = model(**part, num_items_in_batch=total).loss
            one.backward()
            loss += one.item()
    found = {name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None}
    return loss, found


def adapted(folder: Path, family: str, **changes: Any) -> Any:
    """A tiny model under an adapter of which no half is zero."""
    from halops.sections import LINEARS
    from halops.train.adapter import add_adapter, targets

    profile = make_profile(lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0})
    base = make_model(folder, family, **changes)
    model = load_model(base, read_config(base), profile, cuda=False)
    torch.manual_seed(5)
    model = add_adapter(model, profile.lora, targets(model, LINEARS), torch.float32, None)
    for name, item in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(item, std=0.1)
    return model.train()


def relative(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    gap = sum(float((found[name] - expected[name]).double().pow(2).sum()) for name in expected)
    size = sum(float(expected[name].double().pow(2).sum()) for name in expected)
    return float((gap / size) ** 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_the_classic_step(family: str, tmp_path: Path) -> None:
    model = adapted(tmp_path / "base", family, **FAMILIES[family])
    rows = rows_of([24, 4, 17, 9, 31, 12, 6, 20])
    classic = [StepCollator(1, end_to_end=False)([row]) for row in rows]  # 1 x 8
    loss, expected = gradients(model, classic)
    for budget in (1, 40, 64, 1000):
        step = StepCollator(budget)(rows)
        assert len(step["micro_batches"]) == len(bins([len(row.input_ids) for row in rows], budget))
        again, found = gradients(model, [step])
        assert again == pytest.approx(loss, rel=1e-5)
        assert relative(found, expected) < 1e-5
    padded = StepCollator(64, end_to_end=False)(rows)
    assert relative(gradients(model, [padded])[1], expected) < 1e-5


def test_rows_that_saw_each_other_would_be_noticed(tmp_path: Path) -> None:
    """One long row of the same tokens has another gradient: the comparison above can fail."""
    model = adapted(tmp_path / "base", "qwen2")
    rows = rows_of([24, 4, 17, 9])
    _, expected = gradients(model, [StepCollator(1)(rows)])
    joined = StepCollator(1000)(rows)
    for part in joined["micro_batches"]:
        part["cu_seq_lens_q"] = torch.tensor([0, 54], dtype=torch.int32)
        part["max_length_q"] = 54
    assert relative(gradients(model, [joined])[1], expected) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_stay_apart(family: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", family, **FAMILIES[family])
    assert rows_stay_apart(load_model(base, read_config(base), make_profile(), cuda=False))


def test_a_window_shorter_than_the_rows_keeps_its_own_attention(tmp_path: Path) -> None:
    model = adapted(tmp_path / "base", "mistral", sliding_window=6)
    assert model.config._attn_implementation == "sdpa"
    rows = rows_of([24, 17])
    _, expected = gradients(model, [StepCollator(1, end_to_end=False)([row]) for row in rows])
    assert relative(gradients(model, [StepCollator(1000)(rows)])[1], expected) < 1e-5


def test_a_model_that_mixes_rows_is_noticed(tiny_base: Path) -> None:
    """Its attention made to see everything before."""
    from halops.train import attention

    model = load_model(tiny_base, read_config(tiny_base), make_profile(), cuda=False)
    own = attention._spans
    try:
        attention._spans = lambda bounds: [(0, int(bounds[-1]))]
        assert not rows_stay_apart(model)
    finally:
        attention._spans = own


@pytest.mark.parametrize(
    ("tokens", "rows", "longest", "full"),
    [(4096, 2, 2048, True), (4095, 2, 2048, False), (1024, 1, 1024, True), (1000, 1, 1000, False), (0, 0, 0, False)],
)
def test_only_full_rows_of_a_length_that_comes_again_go_to_cudnn(
    tokens: int, rows: int, longest: int, full: bool
) -> None:
    from halops.train import full_rows

    assert full_rows.are_full(tokens, rows, longest) is full
    assert not full_rows.applies(torch.zeros(tokens, 2, 8), rows, longest)  # on a CPU


def test_full_rows_are_laid_out_for_cudnn_without_a_copy() -> None:
    from halops.train import full_rows

    wide = torch.randn(12, 5 * 8 + 3)  # as a layer has it, with room behind
    inner = wide[:, :40].view(12, 5, 8)
    rows = full_rows._rows(inner, 4)
    assert rows.shape == (3, 5, 4, 8)
    assert rows.data_ptr() == inner.data_ptr()
    assert torch.equal(rows[1, 2, 3], inner[7, 2])
    assert torch.equal(full_rows._flat(rows), inner)

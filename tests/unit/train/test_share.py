"""How several processes share an optimizer step: sizes, rows, rungs."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import pytest

from halops.errors import ConfigError
from halops.profile import load_profile
from halops.train.arguments import installed_fields, processes, share, training_arguments
from halops.train.heldout import turns
from halops.train.loss import IGNORED
from halops.train.rows import Row, Rows, SharedSteps, StepsOfLikeLength, collate
from tests.unit.train.conftest import make_profile


def training(batch: int, accumulation: int) -> Any:
    return make_profile(
        training={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    ).training


@pytest.mark.parametrize(
    ("batch", "accumulation", "count", "expected"),
    [
        (1, 8, 1, 8),
        (1, 8, 2, 4),
        (1, 8, 8, 1),
        (4, 4, 8, 2),
        (4, 1, 4, 1),
        (9, 2, 3, 6),
        (6, 4, 8, 3),
    ],
)
def test_the_effective_batch_never_changes(batch: int, accumulation: int, count: int, expected: int):
    assert share(training(batch, accumulation), count) == expected
    assert expected * count == batch * accumulation


@pytest.mark.parametrize(("batch", "accumulation", "count"), [(1, 8, 3), (3, 3, 2), (2, 2, 8), (1, 1, 2)])
def test_what_cannot_be_shared_says_so_with_its_numbers(batch: int, accumulation: int, count: int):
    with pytest.raises(ConfigError) as caught:
        share(training(batch, accumulation), count)
    for number in (batch, accumulation, batch * accumulation, count):
        assert str(number) in str(caught.value)
    fitting = int(str(caught.value).rpartition("=")[2])
    assert share(training(1, fitting), count) == fitting // count


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], 1), (["cluster.gpu.count=0"], 1), (["cluster.gpu.count=8"], 8),
        (["cluster.gpu.count=4", "cluster.nodes=2"], 8),
    ],
)  # fmt: skip
def test_a_process_for_each_gpu_of_each_node(sets: list[str], expected: int):
    assert processes(load_profile("rtx8", sets).cluster) == expected


def test_arguments_of_one_of_four():
    made = training_arguments(load_profile("a100"), "out", True, count=4)
    assert (made["per_device_train_batch_size"], made["gradient_accumulation_steps"]) == (4, 1)
    assert made["ddp_backend"] == "nccl"
    assert set(made) <= installed_fields()
    assert not [name for name in training_arguments(load_profile("a100"), "out", True) if "ddp" in name]


def lengths(count: int) -> list[int]:
    choose = random.Random(5)
    return [choose.randrange(4, 60) for _ in range(count)]


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 14, 37, 64])
@pytest.mark.parametrize(("step", "count"), [(4, 2), (8, 4), (6, 3), (8, 8)])
def test_a_step_has_the_rows_of_one_process(rows: int, step: int, count: int):
    alone = StepsOfLikeLength(lengths(rows), step, seed=3)
    parts = [SharedSteps(StepsOfLikeLength(lengths(rows), step, 3), step, rank, count) for rank in range(count)]
    for sampler in (alone, *parts):
        sampler.set_epoch(2)
    drawn = [list(part) for part in parts]
    order = list(alone)
    assert {len(batches) for batches in drawn} == {len(parts[0])} == {-(-rows // step)}
    for number, start in enumerate(range(0, rows, step)):
        mine = [batches[number] for batches in drawn]
        assert sorted(chain(*mine)) == sorted(order[start : start + step])


def test_processes_get_about_as_many_tokens():
    alone = StepsOfLikeLength(lengths(64), 16, seed=3)
    parts = [list(SharedSteps(alone, 16, rank, 4)) for rank in range(4)]
    for step in zip(*parts, strict=True):
        tokens = [sum(alone.lengths[row] for row in rows) for rows in step]
        assert max(tokens) - min(tokens) <= max(alone.lengths)
        assert max(tokens) < 1.35 * sum(tokens) / 4


def test_a_batch_without_rows_trains_nothing():
    batch = collate([])
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 2)
    assert (batch["labels"] == IGNORED).all()
    assert batch["trained"].tolist() == []
    assert batch["lengths"].tolist() == [0]


def test_held_out_batches_are_dealt_out_in_turns():
    rows = Rows([Row(tuple(range(n)), tuple(range(n))) for n in (5, 4, 3, 2, 6)])
    dealt = list(turns(rows, 6, 2))
    assert [[[len(row.input_ids) for row in batch] for batch in turn] for turn in dealt] == [[[2, 3], [4]], [[5], [6]]]
    assert [len(turn) for turn in turns(rows, 6, 3)] == [3, 1]


def test_a_profile_whose_gpus_cannot_share_a_step_is_refused_when_it_is_loaded():
    assert load_profile("a100", ["cluster.gpu.count=8", "cluster.nodes=2"]).cluster.nodes == 2
    with pytest.raises(ConfigError, match=r"3 GPUs can't share a step of 16 rows evenly"):
        load_profile("a100", ["cluster.gpu.count=3"])

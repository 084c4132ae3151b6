"""Reading prepared rows, padding them, and the order in which they are seen."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from halops.errors import DataError
from halops.train.heldout import batches
from halops.train.loss import IGNORED
from halops.train.rows import Row, Rows, StepsOfLikeLength, collate, read_rows


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_spans_become_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", {"input_ids": [5, 6, 7, 8, 9], "trained": [[0, 2], [4, 5]]})
    (row,) = read_rows(path, 10, 10).rows
    assert row.input_ids == (5, 6, 7, 8, 9)
    assert row.labels == (IGNORED, 6, IGNORED, IGNORED, 9)  # nothing predicts the first token


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"input_ids": [1, 99, 2], "trained": [[1, 2]]}, "line 2: a token id outside"),
        ({"input_ids": [1, -1, 2], "trained": [[1, 2]]}, "line 2: a token id outside"),
        ({"input_ids": [1, 2], "trained": [[1, 3]]}, "line 2: not a prepared row: the trained span 1:3"),
        ({"input_ids": [1, 2, 3], "trained": [[2, 2]]}, "line 2: not a prepared row: the trained span 2:2"),
        ({"input_ids": [1, 2, 3], "trained": []}, "line 2: no token with loss"),
        ({"input_ids": [1, 2, 3], "trained": [[0, 1]]}, "line 2: no token with loss"),
        ({"input_ids": [1] * 21, "trained": [[1, 2]]}, "line 2: 21 tokens, but the model has 20 positions"),
        ({"messages": []}, "line 2: not a prepared row"),
        ("{", "line 2: not a prepared row"),
    ],
)
def test_rows_that_the_model_cannot_take(tmp_path: Path, row: Any, says: str) -> None:
    path = write(tmp_path / "train.jsonl", {"input_ids": [1, 2], "trained": [[1, 2]]}, row)
    with pytest.raises(DataError) as caught:
        read_rows(path, vocab_size=50, positions=20)
    assert says in str(caught.value)
    assert "train.jsonl" in str(caught.value)


def make_rows(lengths: list[int]) -> Rows:
    return Rows([Row(tuple(range(1, n + 1)), (IGNORED, *range(2, n + 1))) for n in lengths])


def test_a_batch_is_padded_to_its_longest_row() -> None:
    batch = collate(make_rows([2, 4]).rows)
    assert batch["input_ids"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert batch["labels"].tolist() == [[IGNORED, 2, IGNORED, IGNORED], [IGNORED, 2, 3, 4]]
    assert batch["trained"].tolist() == [0, 4, 5, 6]
    assert batch["lengths"].tolist() == [2, 4]


def lengths_of(count: int) -> list[int]:
    choose = random.Random(3)
    return [choose.randrange(10, 200) for _ in range(count)]


@pytest.mark.parametrize(("count", "step"), [(100, 8), (101, 8), (7, 8), (64, 1), (1, 4), (130, 16)])
def test_every_row_once_an_epoch(count: int, step: int) -> None:
    sampler = StepsOfLikeLength(lengths_of(count), step, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(count))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(count))
    if count > 16:
        assert list(sampler) != first
        assert list(StepsOfLikeLength(lengths_of(count), step, seed=2)) != first


def test_like_lengths_leave_little_padding() -> None:
    lengths = lengths_of(400)

    def padded(order: list[int]) -> int:
        return sum(8 * max(lengths[row] for row in order[start : start + 8]) for start in range(0, 400, 8))

    plain = padded(list(StepsOfLikeLength(lengths, 1, seed=0))) / sum(lengths)
    alike = padded(list(StepsOfLikeLength(lengths, 8, seed=0))) / sum(lengths)
    assert plain > 1.5
    assert alike < 1.2


def test_the_longest_row_comes_first_and_steps_are_not_sorted() -> None:
    lengths = lengths_of(400)
    order = list(StepsOfLikeLength(lengths, 8, seed=0))
    assert max(lengths) in [lengths[row] for row in order[:8]]
    means = [sum(lengths[row] for row in order[start : start + 8]) for start in range(8, 400, 8)]
    ups = sum(later > earlier for earlier, later in itertools.pairwise(means))
    assert 15 < ups < 33


def test_evaluation_batches_keep_to_their_budget() -> None:
    rows = make_rows([50, 3, 4, 120, 5, 60])
    made = list(batches(rows, budget=110))
    assert [[len(row.input_ids) for row in batch] for batch in made] == [[3, 4, 5], [50], [60], [120]]

"""Prepared rows as tensors: reading, batching by length, and the order in which they are seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from halops.errors import DataError
from halops.train.loss import IGNORED

POOL = 8  # optimizer steps whose rows are sorted by length together


@dataclass(frozen=True)
class Row:
    """Token ids, and for each the id to learn there or IGNORED."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


BLANK = Row((), ())


class Rows(Dataset[Row]):
    """Rows in memory, as the Trainer wants them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.lengths = [len(row.input_ids) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def read_rows(path: Path, vocab_size: int, positions: int | None) -> Rows:
    """The rows of train.jsonl or heldout.jsonl.

    Args:
        path: JSONL with `input_ids` and `trained`, half-open spans of positions with loss.
        vocab_size: rows of the model's embedding.
        positions: the longest row that the model's positions allow, None if unknown.

    Raises DataError, with its line, for a row that the model can't take or that trains nothing.
    """
    rows, problems = [], []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = _row(json.loads(line))
                problem = _problem(row, vocab_size, positions)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                problem = f"not a prepared row: {error}"
            else:
                rows.append(row)
            if problem:
                problems.append(f"line {number}: {problem}")
    if problems:
        raise DataError(
            f"{len(problems)} rows can't be trained on",
            problems[:20],
            where=str(path.name),
            remedy="the data must be prepared with this model's own tokenizer, and rows kept within its positions "
            "(training.max_seq_length)",
        )
    return Rows(rows)


def _row(record: dict[str, Any]) -> Row:
    ids = tuple(record["input_ids"])
    labels = [IGNORED] * len(ids)
    for start, end in record["trained"]:
        if not 0 <= start < end <= len(ids):
            raise ValueError(f"the trained span {start}:{end} is outside of its {len(ids)} tokens")
        labels[start:end] = ids[start:end]
    if labels:
        labels[0] = IGNORED  # nothing comes before it to predict it from
    return Row(ids, tuple(labels))


def _problem(row: Row, vocab_size: int, positions: int | None) -> str | None:
    if not all(isinstance(token, int) and 0 <= token < vocab_size for token in row.input_ids):
        return f"a token id outside of the model's embedding of {vocab_size}"
    if positions and len(row.input_ids) > positions:
        return f"{len(row.input_ids)} tokens, but the model has {positions} positions"
    if all(label == IGNORED for label in row.labels):
        return "no token with loss"
    return None


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """A batch, padded at the right to its longest row.

    No attention mask: with a causal mask no real token sees padding to its right, and padding has no loss. Without
    one, attention takes its fastest path.

    Without rows it is a batch that trains nothing: one row of padding.

    Returns: input_ids, labels [B, S] int64; trained [N] int64, positions in the flattened batch that predict a
        trained token; lengths [B] int64.
    """
    rows = rows or [BLANK]
    width = max(2, *(len(row.input_ids) for row in rows))
    input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[index, : len(row.labels)] = torch.tensor(row.labels)
    trained = (labels.reshape(-1) != IGNORED).nonzero().squeeze(1) - 1
    return {
        "input_ids": input_ids,
        "labels": labels,
        "trained": trained,
        "lengths": torch.tensor([len(row.input_ids) for row in rows]),
    }


class StepsOfLikeLength(Sampler[int]):
    """A random order in which the rows of one optimizer step have like lengths, so that little is padding.

    It depends on the seed, the epoch and the rows of a step, not on how a step is cut into micro-batches: a run can
    go on with smaller ones where it was. The step with the longest row comes first, since that is where memory runs
    out if it does.

    Args:
        lengths: of all rows, in tokens.
        step: rows of one optimizer step; 1 gives a plain shuffle.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self.lengths, self.step, self.seed, self.epoch = lengths, step, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        steps: list[list[int]] = []
        for pool in _slices(order, POOL * self.step):
            steps += _slices(sorted(pool, key=lambda row: -self.lengths[row]), self.step)
        whole = [rows for rows in steps if len(rows) == self.step]
        rest = [row for rows in steps if len(rows) < self.step for row in rows]
        whole = [whole[index] for index in torch.randperm(len(whole), generator=generator).tolist()]
        yield from (row for rows in _longest_first(whole, self.lengths) for row in rows)
        yield from rest


class SharedSteps(Sampler[list[int]]):
    """One process's part of each optimizer step: all together see in it the rows that one alone would.

    Rows are dealt so that the processes get about as many tokens. Where an epoch's last step has too few rows, some
    get none.

    Args:
        order: of all rows.
        step: rows of one optimizer step.
        rank, count: which process this is, and of how many.
    """

    def __init__(self, order: StepsOfLikeLength, step: int, rank: int, count: int) -> None:
        self.order, self.step, self.rank, self.count = order, step, rank, count

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.order) // self.step)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in _slices(list(self.order), self.step):
            yield self._deal(rows)[self.rank]

    def _deal(self, rows: list[int]) -> list[list[int]]:
        """The longest row first, each to the process that has the fewest tokens so far."""
        parts: list[list[int]] = [[] for _ in range(self.count)]
        tokens = [0] * self.count
        for row in sorted(rows, key=lambda row: -self.order.lengths[row]):
            least = tokens.index(min(tokens))
            parts[least].append(row)
            tokens[least] += self.order.lengths[row]
        return parts


def _slices(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _longest_first(steps: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    if not steps:
        return steps
    longest = max(range(len(steps)), key=lambda index: max(lengths[row] for row in steps[index]))
    return [steps[longest], *steps[:longest], *steps[longest + 1 :]]

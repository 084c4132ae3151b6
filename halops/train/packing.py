"""One optimizer step's rows as few micro-batches: laid end to end within a token budget, each row by itself.

Positions restart with every row and attention stays within it, so a step's gradient is the one of its rows one by
one. Nothing is padding, and a GPU gets as much work at once as its memory allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from halops.train.loss import IGNORED
from halops.train.rows import BLANK, Row, collate


def bins(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows, grouped into as few bins of at most `budget` tokens as best-fit decreasing finds.

    A row longer than the budget gets a bin of its own. Equal lengths keep their order, so that the same rows always
    make the same micro-batches.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [group for group, left in enumerate(room) if left >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda group: room[group])
            groups[best].append(index)
            room[best] -= lengths[index]
        else:
            groups.append([index])
            room.append(budget - lengths[index])
    return [sorted(group) for group in groups]


def padded_bins(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The same for rows that are padded to the longest of their bin."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def lay(rows: Sequence[Row]) -> dict[str, Any]:
    """A micro-batch of rows end to end; without rows, one that trains nothing.

    Returns: input_ids, labels, position_ids [1, S] int64; trained [N] int64, positions that predict a trained token;
        cu_seq_lens_* [rows + 1] int32 and max_length_*, under the names that transformers' attention functions take.
    """
    rows = [row for row in rows if row.input_ids] or [Row((0, 0), (IGNORED, IGNORED))]
    ids = torch.tensor([token for row in rows for token in row.input_ids])
    labels = torch.tensor([label for row in rows for label in row.labels])
    lengths = [len(row.input_ids) for row in rows]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "input_ids": ids[None],
        "labels": labels[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "trained": (labels != IGNORED).nonzero().squeeze(1) - 1,  # a row's first token is never trained
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


class StepCollator:
    """Makes one optimizer step of its rows: {"micro_batches", "tokens", "trained"}.

    Args:
        budget: most tokens of a micro-batch; a longer row goes alone.
        end_to_end: False pads rows to one another's length, for models whose rows would see each other.
    """

    def __init__(self, budget: int, end_to_end: bool = True) -> None:
        self.budget, self.end_to_end = budget, end_to_end

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        made = [self._micro_batch([rows[index] for index in group]) for group in self._groups(rows)]
        return {
            "micro_batches": made,
            "tokens": sum(len(row.input_ids) for row in rows),
            "trained": sum(len(part["trained"]) for part in made),
        }

    def _groups(self, rows: Sequence[Row]) -> list[list[int]]:
        lengths = [len(row.input_ids) for row in rows]
        return (bins if self.end_to_end else padded_bins)(lengths, self.budget) or [[]]

    def _micro_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        if self.end_to_end:
            return lay(rows)
        return {name: tensor for name, tensor in collate(rows or [BLANK]).items() if name != "lengths"}

"""Whether rows that lie end to end stay apart in a model, found by trying."""

from __future__ import annotations

from typing import Any

import torch

from halops.train.head import TOLERANCE
from halops.train.packing import lay
from halops.train.rows import Row

LENGTHS = (7, 5)  # the second row is read twice: behind another one, and alone


def rows_stay_apart(model: Any) -> bool:
    """Compare the loss of a row behind another one with its loss alone.

    A model that takes no positions, or mixes its tokens otherwise than by attention, would show the row before.
    """
    first, second = (_row(length, len(model.get_output_embeddings().weight)) for length in LENGTHS)
    training = model.training
    model.eval()
    try:
        losses = [_loss(model, rows) for rows in ([first], [second], [first, second])]
    except (TypeError, ValueError, RuntimeError):
        return False  # it knows no positions or bounds
    finally:
        model.train(training)
    tolerance = TOLERANCE[model.get_output_embeddings().weight.dtype]
    return abs(losses[0] + losses[1] - losses[2]) <= tolerance * max(1.0, losses[2] / 10)


def _row(length: int, vocab_size: int) -> Row:
    ids = tuple((index * 41 + length * 13 + 7) % vocab_size for index in range(length))
    return Row(ids, (-100, *ids[1:]))


def _loss(model: Any, rows: list[Row]) -> float:
    """Sum over the rows' tokens."""
    device = next(model.parameters()).device
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in lay(rows).items()}
    with torch.no_grad():
        loss: float = model(**batch, num_items_in_batch=1.0).loss.item()
    return loss

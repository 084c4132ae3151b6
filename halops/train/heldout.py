"""Held-out loss: nats per trained token, over all held-out rows."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import torch

from halops.errors import Interrupted
from halops.progress import Progress
from halops.train.loss import IGNORED
from halops.train.rows import Row, Rows, collate
from halops.train.world import ALONE, World


def heldout_loss(
    model: Any,
    rows: Rows,
    *,
    budget: int,
    progress: Progress,
    stop: threading.Event,
    message: str,
    world: World = ALONE,
) -> float | None:
    """Mean cross entropy over the trained tokens of all rows, in nats; None if there are no rows.

    Args:
        model: with the chunked head; its dropout is off meanwhile.
        budget: most tokens in a batch, padding included; a longer row goes alone.
        message: what progress says.
        world: the processes that share the batches; all of them get the same answer.

    Raises Interrupted as soon as `stop` is set.
    """
    device = next(model.parameters()).device
    total, count, done = 0.0, 0, 0
    training = model.training
    model.eval()
    try:
        for turn in turns(rows, budget, world.size):
            if world.any(stop.is_set()):  # together, or the others would wait for this one
                raise Interrupted(f"stopped while {message}", remedy="the same command goes on from here")
            if world.rank < len(turn):
                batch = turn[world.rank]
                tensors = {name: tensor.to(device) for name, tensor in collate(batch).items() if name != "lengths"}
                with torch.no_grad():
                    total += model(**tensors, num_items_in_batch=1.0).loss.item()
                count += sum(label != IGNORED for row in batch for label in row.labels)
            done += sum(len(batch) for batch in turn)
            progress(message, done=done, total=len(rows), unit="rows")
    finally:
        model.train(training)
    total, tokens = world.sum(total, count)
    return total / tokens if tokens else None


def turns(rows: Rows, budget: int, count: int) -> Iterator[list[list[Row]]]:
    """The batches, `count` at a time: one for each process; the last turn may have fewer."""
    made = batches(rows, budget)
    while turn := list(itertools.islice(made, count)):
        yield turn


def batches(rows: Rows, budget: int) -> Iterator[list[Row]]:
    """The rows from the shortest to the longest, in batches of like lengths within the budget."""
    batch: list[Row] = []
    for row in sorted(rows.rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) + 1) * len(row.input_ids) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch

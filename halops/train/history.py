"""The training's history: one record a logged step, in history.jsonl and as TensorBoard events."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from halops.names import TENSORBOARD

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One logged step. Units are those of `halops.metrics`; loss is the mean since the record before."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    memory_bytes: int


class History:
    """Writes records as they come.

    Args:
        output: gets history.jsonl and tensorboard/.
        records: those of an earlier attempt, up to the checkpoint that this one goes on from.
        events: whether to write TensorBoard's.
    """

    def __init__(self, output: Path, records: Iterable[Record] = (), events: bool = True) -> None:
        self.records: list[Record] = []
        self._path = output / "history.jsonl"
        self._path.touch()
        self._writer = _tensorboard(output / TENSORBOARD) if events else None
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Append one record to all that keep it."""
        self.records.append(record)
        with self._path.open("a") as stream:
            stream.write(json.dumps(asdict(record)) + "\n")
        for name, value in asdict(record).items():
            if name != "step":
                self.scalar(f"train/{name}", value, record.step)
        if self._writer:
            self._writer.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One more number for TensorBoard."""
        if self._writer:
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


def _tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard events, or None where tensorboard isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("tensorboard is not installed: no events are written (pip install tensorboard)")
        return None
    return SummaryWriter(str(folder))

"""What a stage sees: an input folder, an output folder, a progress callback. Nothing of stores or clusters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from halops.artifact import MetricValue
from halops.progress import Progress
from halops.runspec import RunSpec

Metrics = dict[str, MetricValue]


class Checkpoints(Protocol):
    """Training checkpoints, kept by the harness under the store's commit protocol."""

    def newest(self) -> tuple[int, Path] | None:
        """Step and local folder of the newest checkpoint whose every byte is verified, if any."""

    def save(self, step: int, folder: Path) -> None:
        """Store a finished checkpoint folder, then drop the oldest past the limit.

        The folder may be taken over: it is gone afterwards. It may also be stored beside the training; then an error
        is raised by the next call, or by `flush`.
        """

    def flush(self) -> None:
        """Wait until all that was saved is stored."""


@dataclass(frozen=True)
class StageContext:
    """One attempt at one stage.

    `inputs` has a subfolder for each input: `base/` (a Hugging Face model folder), `dataset/rows.jsonl`
    and perhaps `dataset/probes.jsonl`, `adapter/` (an own adapter to start from, perhaps), and one for each
    upstream stage (`data/`, `train/`, `merge/`, `convert/`). Inputs are verified, and read-only by agreement:
    they may be hard links into the store.

    `output` is empty at first; what is in it when the stage returns is what gets stored.
    `scratch` is for everything else; it is deleted afterwards.
    """

    spec: RunSpec
    inputs: Path
    output: Path
    scratch: Path
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)  # set on SIGTERM
    checkpoints: Checkpoints | None = None
    rung: int = 0  # rungs down the out-of-memory ladder
    oom_killed: bool = False  # an attempt before was, for host memory


StageFunction = Callable[[StageContext], Metrics]

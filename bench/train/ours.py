"""Our own train stage under the meter: the session and Trainer that `halops train` makes, less held-out losses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.train.cells import Cell, rows
from bench.train.meter import Meter

if TYPE_CHECKING:
    from halops.stages.context import StageContext


def sets(cell: Cell, steps: int, dropout: float) -> list[str]:
    """The cell as overrides of its profile."""
    return [
        f"training.max_steps={steps}", "training.save_steps=100000", "training.logging_steps=1",
        f"training.max_seq_length={cell.longest}", f"training.per_device_train_batch_size={cell.micro}",
        f"training.gradient_accumulation_steps={cell.accumulation}", f"lora.lora_dropout={dropout}",
    ]  # fmt: skip


def inputs(folder: Path, base: Path, cell: Cell, vocab: int) -> Path:
    """The stage's input folder: the base, and rows with loss on all but their first token."""
    made = folder / "inputs"
    (made / "data").mkdir(parents=True)
    (made / "base").symlink_to(base.resolve())
    with (made / "data" / "train.jsonl").open("w") as stream:
        for ids in rows(cell, vocab):
            stream.write(json.dumps({"input_ids": ids, "trained": [[1, len(ids)]]}) + "\n")
    (made / "data" / "heldout.jsonl").write_text("")
    (made / "data" / "chat_template.jinja").write_text("")
    return made


def context_for(folder: Path, base: Path, cell: Cell, vocab: int, overrides: Iterable[str]) -> StageContext:
    """What the train stage is given: the cell's profile and rows, and folders."""
    from halops.profile import load_profile
    from halops.progress import Progress
    from halops.runspec import BaseRef, DatasetRef, RunSpec
    from halops.stages.context import StageContext

    spec = RunSpec(
        name="bench", profile=load_profile(cell.profile, list(overrides)), base=BaseRef(uri="file:///b#sha256=00"),
        dataset=DatasetRef(uri="rows", sha256="0" * 64, size=1), llama_cpp="none",
    )  # fmt: skip
    progress = Progress(None, lambda event: print(event["message"], flush=True))
    context = StageContext(
        spec=spec, inputs=inputs(folder, base, cell, vocab), output=folder / "output", scratch=folder / "scratch",
        stop=threading.Event(), progress=progress,
    )  # fmt: skip
    for path in (context.output, context.scratch):
        path.mkdir(parents=True)
    return context


def trainer_for(folder: Path, base: Path, cell: Cell, vocab: int, overrides: Iterable[str]) -> tuple[Any, Any, Any]:
    """Session, Trainer and watch of the train stage; rows come in the order of the file."""
    from torch.utils.data import SequentialSampler

    from halops.progress import Progress
    from halops.stages.train import _trainer
    from halops.train.callbacks import Watch
    from halops.train.checkpoints import LocalCheckpoints
    from halops.train.history import History
    from halops.train.session import prepare

    context = context_for(folder, base, cell, vocab, overrides)
    session = prepare(context)
    watch = Watch(History(context.output, events=False), Progress(), context.stop, 1)
    trainer = _trainer(session, watch, LocalCheckpoints(folder / "kept"), dict)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    trainer._save_checkpoint = lambda *_: None
    return session, trainer, watch


def run(folder: Path, base: Path, cell: Cell, vocab: int, meter: Meter, dropout: float, more: tuple[str, ...]) -> Any:
    """One process's measurement."""
    given = [*sets(cell, meter.steps, dropout), *more]
    if cell.cap and not hasattr(torch.cuda.memory, "get_per_process_memory_fraction"):
        from halops.train import spending

        spending.free_memory = lambda: int(cell.cap * 2**30)  # this torch doesn't tell what it was allowed
    session, trainer, watch = trainer_for(folder, base, cell, vocab, given)
    loaded = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    counted = trainer.training_step

    def step(model: Any, batch: Any, *rest: Any) -> Any:
        meter.add(batch["tokens"])
        return counted(model, batch, *rest)

    trainer.training_step = step
    trainer.add_callback(meter)
    trainer.train()
    memory = session.summary["memory"]
    return {
        "predicted": memory["predicted_bytes"],
        "settings": memory,
        "fused_layers": session.fused,
        "loaded": loaded,
        "losses": [record.loss for record in watch.history.records],
    }

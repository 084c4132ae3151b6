"""Full logits never exist: every tensor that a real training step and a real evaluation make is watched."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from halops.progress import Progress
from tests.unit.train.conftest import Attempt, make_inputs, make_model, make_profile, write_rows

VOCAB, HIDDEN, LENGTH = 152064, 64, 128  # Qwen2.5's own vocabulary; rows longer than the head is wide


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operation = 0, ""
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen.add(str(func))
        for item in torch.utils._pytree.tree_leaves(result):
            if isinstance(item, torch.Tensor) and item.numel() > self.elements:
                self.elements, self.operation = item.numel(), f"{func} {tuple(item.shape)}"
        return result


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(
        tmp_path_factory.mktemp("wide") / "base",
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        head_dim=16,
        tie_word_embeddings=True,
    )


def wide_session(attempt: Callable[..., Attempt], base: Path, tmp_path: Path, nf4: bool = False) -> tuple[Any, Any]:
    """A session and its trainer, rows of 100 tokens and more."""
    from halops.stages.train import _trainer
    from halops.train.callbacks import Watch
    from halops.train.history import History
    from halops.train.session import prepare

    inputs = make_inputs(tmp_path / "wide", base, rows=4, longest=LENGTH, vocab=VOCAB)
    for name in ("train", "heldout"):
        path = inputs / "data" / f"{name}.jsonl"
        write_rows(path, 60, longest=LENGTH, vocab=VOCAB)
        rows = [line for line in path.read_text().splitlines() if len(json.loads(line)["input_ids"]) > 100]
        path.write_text("\n".join(rows[:4]) + "\n")
    profile = make_profile(
        training={
            "max_steps": 1,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": nf4,
            "max_seq_length": LENGTH,
        },
        quantization={"load_in_4bit": nf4},
    )
    one = attempt(profile, inputs=inputs)
    session = prepare(one.context)
    watch = Watch(History(one.output), Progress(), threading.Event(), 1)
    return session, _trainer(session, watch, one.context.checkpoints, dict)


@pytest.mark.parametrize("nf4", [True, False], ids=["NF4, checkpointed", "plain LoRA"])
def test_no_tensor_of_sequence_by_vocabulary(
    attempt: Callable[..., Attempt], wide_base: Path, tmp_path: Path, nf4: bool
) -> None:
    """Through the real Trainer: forward, backward, clipping and the optimizer's step."""
    session, trainer = wide_session(attempt, wide_base, tmp_path, nf4)
    longest = min(sum(session.train.lengths), session.settings.token_budget)  # of a micro-batch
    with Largest() as largest:
        trainer.train()
    assert any("backward" in name for name in largest.seen)
    assert largest.elements < longest * VOCAB, largest.operation
    assert largest.elements >= VOCAB  # chunks of logits did pass by


def test_nor_in_evaluation(attempt: Callable[..., Attempt], wide_base: Path, tmp_path: Path) -> None:
    from halops.stages.train import _measure

    session, _ = wide_session(attempt, wide_base, tmp_path)
    with Largest() as largest:
        assert _measure(session, "held-out loss") is not None
    assert VOCAB <= largest.elements < max(session.heldout.lengths) * VOCAB, largest.operation


def test_the_family_s_own_forward_would_be_caught(
    attempt: Callable[..., Attempt], wide_base: Path, tmp_path: Path
) -> None:
    """The watch itself works: without our head it sees the full logits."""
    session, _ = wide_session(attempt, wide_base, tmp_path)
    ids = torch.arange(LENGTH)[None]
    with Largest() as largest:
        session.model(input_ids=ids)
    assert largest.elements >= LENGTH * VOCAB

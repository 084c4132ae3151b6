"""Tiny random models of real families, and a training context around them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from halops.profile import Profile
from halops.progress import Progress
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.stages.context import StageContext
from halops.train.checkpoints import LocalCheckpoints

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; these models are smaller than a thread's start

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.15,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make_model(folder: Path, model_type: str = "qwen2", **changes: Any) -> Path:
    """A random model of the family as a Hugging Face folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **SMALL | changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int, longest: int = 24, vocab: int = 320, seed: int = 0) -> None:
    """Rows of random ids, 4 tokens or more, with loss on their second half."""
    import random

    choose = random.Random(seed)
    with path.open("w") as stream:
        for index in range(count):
            length = choose.randrange(4, longest + 1)
            ids = [choose.randrange(3, vocab) for _ in range(length)]
            row = {
                "id": str(index),
                "domain": None,
                "line": index + 1,
                "input_ids": ids,
                "trained": [[length // 2, length]],
            }
            stream.write(json.dumps(row) + "\n")


def make_profile(**sections: dict[str, Any]) -> Profile:
    """A profile for tiny models: seven steps over two epochs, quick on a CPU."""
    training = {
        "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 5e-3, "max_seq_length": 64, "bf16": False, "gradient_checkpointing": False,
        "optim": "adamw_torch", "save_steps": 3, "logging_steps": 1, "seed": 7,
    }  # fmt: skip
    base = {
        "name": "tiny", "training": training, "lora": {"r": 4, "lora_alpha": 8}, "cluster": {"gpu": {"count": 0}},
        "quantization": {"load_in_4bit": False, "bnb_4bit_compute_dtype": "float32"},
    }  # fmt: skip
    merged = {name: {**base.get(name, {}), **values} for name, values in sections.items()}
    return Profile.model_validate({**base, **merged})


class Attempt:
    """A training context in a folder of its own; `events` are its progress events."""

    def __init__(self, folder: Path, inputs: Path, profile: Profile, checkpoints: Any, rung: int = 0) -> None:
        self.events: list[dict[str, Any]] = []
        for name in ("output", "scratch"):
            (folder / name).mkdir(parents=True)
        spec = RunSpec(
            name="t", profile=profile, base=BaseRef(uri="file:///m#sha256=00"), llama_cpp="x",
            dataset=DatasetRef(uri="file:///d", sha256="0" * 64, size=1),
        )  # fmt: skip
        self.stop = threading.Event()
        self.context = StageContext(
            spec=spec, inputs=inputs, output=folder / "output", scratch=folder / "scratch", stop=self.stop,
            progress=Progress(None, self.events.append), checkpoints=checkpoints, rung=rung,
        )  # fmt: skip
        self.output = folder / "output"

    def run(self) -> dict[str, Any]:
        from halops.stages.train import run

        return run(self.context)

    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / "history.jsonl").read_text().splitlines()]

    def curve(self) -> list[tuple[Any, ...]]:
        """What must be equal in two trainings that are the same."""
        keys = ("step", "epoch", "loss", "learning_rate", "grad_norm")
        return [tuple(line[key] for key in keys) for line in self.history()]

    def adapter(self) -> bytes:
        return (self.output / "adapter" / "adapter_model.safetensors").read_bytes()

    def stop_at(self, step: int) -> None:
        """Set `stop` as soon as that step or a later one is reported: another process's words may cut a line off."""

        def listen(event: dict[str, Any]) -> None:
            self.events.append(event)
            if event["message"] == "training" and event["metrics"]["step"] >= step:
                self.stop.set()

        self.context.progress._listener = listen


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with tied embeddings, and stand-ins for tokenizer files."""
    folder = make_model(tmp_path_factory.mktemp("tiny") / "base", tie_word_embeddings=True)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text('{ "odd":   "spacing" }\n')
    return folder


@pytest.fixture
def inputs(tmp_path: Path, tiny_base: Path) -> Path:
    """An input folder: the tiny base, 14 rows to train on, 4 held out."""
    return make_inputs(tmp_path / "inputs", tiny_base)


def make_inputs(folder: Path, base: Path, rows: int = 14, **kinds: Any) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    write_rows(folder / "data" / "train.jsonl", rows, **kinds)
    write_rows(folder / "data" / "heldout.jsonl", 4, seed=1, **kinds)
    (folder / "data" / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def attempt(tmp_path: Path, inputs: Path) -> Callable[..., Attempt]:
    """Makes attempts at one training; attempts that share `kept` share its checkpoints."""
    counter = iter(range(100))

    def make(profile: Profile | None = None, kept: str | None = None, inputs: Path = inputs, rung: int = 0) -> Attempt:
        number = next(counter)
        checkpoints = LocalCheckpoints(tmp_path / (kept or f"kept-{number}"))
        return Attempt(tmp_path / f"attempt-{number}", inputs, profile or make_profile(), checkpoints, rung)

    return make


def read_jsonl(path: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]

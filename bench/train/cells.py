"""What is compared: cells (rows, batch, memory cap) and contenders (whose code, with which settings)."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Dimensions by transformers' model type: of Qwen2.5-7B, Llama-3.1-8B, Mistral-7B-v0.3 and Phi-3-mini-4k, as their
# config.json says.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
        "num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
    },
    "llama": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    },
    "mistral": {
        "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    "phi3": {
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
        "sliding_window": 2047,
    },
}  # fmt: skip
SMALL = {
    "vocab_size": 32768, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4
}  # fmt: skip
ROWS = 480


@dataclass(frozen=True)
class Cell:
    """Rows of up to `longest` tokens, `micro` x `accumulation` of them a step, under `cap` GiB (0: the whole card)."""

    longest: int
    micro: int
    accumulation: int
    cap: float
    short: bool = False
    profile: str = "rtx8"
    warm: int = 0  # steps before the timed ones, at least
    skip: int = 0  # steps whose rows are left out, the first ones
    again: tuple[int, int] = (0, 0)  # from one step to before another, which come a second time at once

    @property
    def rows_a_step(self) -> int:
        return self.micro * self.accumulation


CELLS = {
    "short": Cell(1024, 1, 8, 7.5, short=True, warm=20),  # steps of new sizes cost more
    "1024": Cell(1024, 1, 8, 7.5),
    "4096": Cell(4096, 1, 8, 7.5),
    "a100": Cell(4096, 4, 4, 0, profile="a100"),
    "tiny": Cell(64, 1, 8, 0, short=True),  # to try this program without a GPU
}


@dataclass(frozen=True)
class Contender:
    """`code` is ours, trl or unsloth; the rest are the peer's own settings, or overrides of ours."""

    code: str
    micro: int = 0  # 0: as the cell says
    packed: int = 0  # tokens that rows are packed to; as many in all as the cell's step would have, were all rows long
    padding_free: bool = False
    checkpointing: bool = True
    warm: int = 4
    whole: float = math.inf  # GiB of a whole card: `peak_reserved` in h200.jsonl with dropout, and one for CUDA
    sets: tuple[str, ...] = field(default=())


CONTENDERS = {
    "ours": Contender("ours"),
    "ours-plain": Contender("ours", sets=("training.fused_layers=false",)),
    "ours-resident": Contender("ours", sets=("training.host_memory_gib=0",)),  # no activations in host memory
    "ours-attention-kept": Contender(
        "ours", sets=("training.offload_activations=true", "training.keep_attention=true")
    ),
    "ours-all-kept": Contender("ours", sets=("training.offload_activations=true", "training.checkpointed_layers=0")),
    "trl": Contender("trl", whole=14),
    "trl-2": Contender("trl", micro=2),
    "trl-4": Contender("trl", micro=4),
    "trl-packed": Contender("trl", packed=4096),
    "trl-packed-2048": Contender("trl", packed=2048),
    "trl-packed-1024": Contender("trl", packed=1024),
    "trl-padding-free": Contender("trl", micro=8, padding_free=True),
    "trl-4-kept": Contender("trl", micro=4, checkpointing=False, whole=107),
    "trl-2-kept": Contender("trl", micro=2, checkpointing=False),
    "unsloth": Contender("unsloth", whole=14),
    "unsloth-8": Contender("unsloth", micro=8),
    "unsloth-4": Contender("unsloth", micro=4),
    "unsloth-2": Contender("unsloth", micro=2),
    "unsloth-packed": Contender("unsloth", packed=4096, warm=20),  # its dynamic shapes compile for long
    "unsloth-packed-1024": Contender("unsloth", packed=1024, warm=20),
    "unsloth-padding-free": Contender("unsloth", micro=8, padding_free=True, warm=20),
    "unsloth-4-kept": Contender("unsloth", micro=4, checkpointing=False, whole=87),
    "unsloth-2-kept": Contender("unsloth", micro=2, checkpointing=False),
    "unsloth-1-kept": Contender("unsloth", micro=1, checkpointing=False),
}
# Each cell's peers: as configured, and at their best so far. `--contenders` tries others.
USUAL = {
    "short": ("ours", "trl", "trl-packed", "trl-packed-2048", "unsloth", "unsloth-packed"),
    "1024": ("ours", "trl", "trl-4", "unsloth", "unsloth-4", "unsloth-8"),
    "4096": ("ours", "trl", "unsloth", "unsloth-2"),
    "a100": ("ours", "trl", "trl-4-kept", "unsloth", "unsloth-4-kept"),
    "tiny": ("ours", "ours-plain"),
}


def needs(cell: Cell, contender: Contender) -> float:
    """GiB of the GPU, one of them CUDA's own."""
    return cell.cap + 1 if cell.cap else contender.whole


def cell_of(name: str) -> Cell:
    """A cell by name; `row-N` is one row of N tokens under the small cap."""
    if name.startswith("row-"):
        return Cell(int(name.removeprefix("row-")), 1, 1, 7.5)
    return CELLS[name]


def lengths(cell: Cell) -> list[int]:
    """Tokens of each row: full, or as instruction data has them (about 390 on average)."""
    choose = random.Random(0)
    if not cell.short:
        return [cell.longest] * min(ROWS, 2**21 // cell.longest)
    return [max(min(48, cell.longest), min(cell.longest, int(choose.lognormvariate(5.8, 0.6)))) for _ in range(ROWS)]


def rows(cell: Cell, vocab: int) -> list[list[int]]:
    """The same random ids for everybody."""
    choose = random.Random(1)
    made = [[choose.randrange(min(1000, vocab // 2), vocab - 100) for _ in range(count)] for count in lengths(cell)]
    skipped, first, last = (step * cell.rows_a_step for step in (cell.skip, *cell.again))
    return [*made[skipped:last], *made[first:]]


def config(family: str, tiny: bool) -> dict[str, Any]:
    """The family's dimensions, or small ones."""
    return FAMILIES[family] | (SMALL if tiny else {})


def vocabulary(base: Path) -> int:
    """Of the model in that folder."""
    found: int = json.loads((base / "config.json").read_text())["vocab_size"]
    return found

"""One measurement in a process of its own: prints one JSON line that begins with RESULT."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.train.cells import CONTENDERS, FAMILIES, Cell, Contender, cell_of, config, vocabulary
from bench.train.turns import pause

# What a measurement imports, in this order: Unsloth wants to be first.
IMPORTS = {
    "ours": ("torch", "bitsandbytes", "peft", "halops.stages.train", "halops.train.session", "bench.train.ours"),
    "trl": ("torch", "bitsandbytes", "peft", "datasets", "trl.trainer.sft_trainer", "bench.train.peers"),
    "unsloth": ("unsloth", "datasets", "trl.trainer.sft_trainer", "bench.train.peers"),
}
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "liger-kernel", "unsloth", "triton", "accelerate")


def make_base(folder: Path, family: str, layers: int, tiny: bool, tokenizer: Path | None) -> None:
    """A random model in bfloat16 as safetensors: right for speed and bytes, not for quality."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    made = AutoConfig.for_model(family, **config(family, tiny), num_hidden_layers=layers)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    if tokenizer:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def get_ready(code: str) -> None:
    """Import all of it, before anything is measured."""
    for name in IMPORTS[code]:
        if name != "unsloth":  # which sets by itself what its allocator does
            os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        importlib.import_module(name)


def measure(
    cell: Cell, contender: Contender, base: Path, timed: int, dropout: float, alone: Callable[[], None] | None
) -> dict[str, Any]:
    """Under the cell's cap; out of memory is a result, too. `alone` is the meter's."""
    import torch

    from bench.train import ours, peers
    from bench.train.meter import Meter, limit_memory

    limit_memory(cell.cap)
    if cell.short:  # the steps that are profiled are those that were timed, and the same after less warming up
        first = max(cell.warm, contender.warm)
        cell = replace(cell, skip=first - contender.warm, again=(first, first + timed))
    meter, vocab = Meter(contender.warm, timed, timed if cell.short else 1, alone), vocabulary(base)
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.perf_counter()
        try:
            if contender.code == "ours":
                found = ours.run(folder, base, cell, vocab, meter, dropout, contender.sets)
            else:
                found = peers.run(folder, base, cell, vocab, meter, dropout, contender)
        except torch.OutOfMemoryError as error:
            return {"out_of_memory": str(error).split("\n")[0][:200]}
    return {**meter.result(), **found, "process_seconds": round(time.perf_counter() - began, 1)}


def versions() -> dict[str, str]:
    """What is installed of the libraries that count."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cell", help="a cell, or `base` to make the model")
    parser.add_argument("contender", choices=[*CONTENDERS, "-"])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--family", default="qwen2", choices=list(FAMILIES), help="of the model that `base` makes")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--timed", type=int, default=5)
    parser.add_argument("--warm", type=int, help="instead of the cell's and the contender's own")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--turn", action="store_true", help="pause for others: bench.train.turns")
    options = parser.parse_args()
    if options.cell == "base":
        make_base(options.base, options.family, options.layers, options.tiny, options.tokenizer)
        return
    cell, contender = cell_of(options.cell), CONTENDERS[options.contender]
    warm = max(contender.warm, cell.warm) if options.warm is None else options.warm
    contender = replace(contender, warm=warm)
    get_ready(contender.code)
    import torch

    alone = pause if options.turn else None
    if alone:
        alone()
    result = measure(cell, contender, options.base, options.timed, options.dropout, alone)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    line = {
        "cell": options.cell, "contender": options.contender, "dropout": options.dropout, "device": device,
        "cap": cell.cap, "versions": versions(), **result,
    }  # fmt: skip
    print("RESULT " + json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

"""The train stage on one GPU and on several: the same losses at the same effective batch, and how much faster.

    python -m bench.train.many --base FOLDER --cell a100 --counts 1,2 [--steps 12]

Each count is a process of its own, which starts one for each GPU as the stage does: torchrun, NCCL, DDP.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.train.__main__ import measured
from bench.train.cells import CELLS, Cell, vocabulary
from bench.train.ours import context_for, sets
from halops.units import GIB

WARM = 4  # steps that don't count for the speed


def measure(base: Path, cell: Cell, steps: int, more: list[str]) -> dict[str, Any]:
    """The stage's own metrics and history, in this process and those that it starts."""
    from halops.stages.train import run

    with tempfile.TemporaryDirectory() as name:
        context = context_for(Path(name), base, cell, vocabulary(base), [*sets(cell, steps, 0.0), *more])
        metrics = run(context)
        records = [json.loads(line) for line in (context.output / "history.jsonl").read_text().splitlines()]
    return {
        "losses": [record["loss"] for record in records],
        "grad_norms": [record["grad_norm"] for record in records],
        "tokens_per_second": statistics.median(record["tokens_per_second"] for record in records[WARM:]),
        "memory_bytes": metrics["memory_bytes"],
    }


def one(options: argparse.Namespace, count: str) -> dict[str, Any] | None:
    """A count in a fresh process; None if it failed, after its last words."""
    words = ["bench.train.many", "--base", str(options.base), "--cell", options.cell, "--steps", str(options.steps)]
    words += ["--here", *[word for item in options.set for word in ("--set", item)]]
    line, text = measured(words, dict(os.environ) | {"HALOPS_NPROC": count})
    if not line:
        print(text)
        return None
    result: dict[str, Any] = json.loads(line)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train.many", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--cell", default="a100", choices=list(CELLS))
    parser.add_argument("--counts", default="1,2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the profile")
    parser.add_argument(
        "--here", action="store_true", help="measure in this process, with as many as HALOPS_NPROC says"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.here:
        print(
            "RESULT " + json.dumps(measure(options.base, CELLS[options.cell], options.steps, options.set)), flush=True
        )
        return 0
    found = {count: one(options, count) for count in options.counts.split(",")}
    if None in found.values():
        return 1
    alone = next(iter(found.values())) or {}
    for count, result in found.items():
        assert result
        apart = [abs(one - other) for one, other in zip(result["losses"], alone["losses"], strict=True)]
        result |= {"cell": options.cell, "count": int(count), "apart": sum(apart) / len(apart)}
        rate = result["tokens_per_second"]
        print(
            f"{count} GPUs: {rate:,.0f} tokens/s, {rate / alone['tokens_per_second']:.2f} x; losses "
            f"{result['apart']:.1e} nats apart, from {result['losses'][0]:.4f} to {result['losses'][-1]:.4f}; peak "
            f"{result['memory_bytes'] / GIB:.2f} GiB each"
        )
        if options.out:
            with options.out.open("a") as stream:
                stream.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

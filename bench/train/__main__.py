"""Ours and the peers, each measurement in a fresh process, in the order A B B A.

    python -m bench.train                                         # every cell with its usual contenders
    python -m bench.train --cells 1024 --contenders ours,unsloth-8 --out results.jsonl
    python -m bench.train --cells short --dropout 0,0.05 --out results.jsonl
    python -m bench.train --gpus 0,1                              # a queue of cells on each, half the processors each
    python -m bench.train --family llama --cells 1024 --contenders ours,ours-plain
    python -m bench.train.kernels                                 # our kernels: right, and how fast
    python -m bench.train.equality                                # gradients and 50 steps against the classic step
    python -m bench.train.idle                                    # what short rows' steps wait for
    python -m bench.train.many                                    # several GPUs against one
    python -m bench.train.table results.jsonl                     # joins results into docs/performance.md

A cell's processes warm up side by side as far as the GPU has room for them, and are then measured one by one. Cells
can be run in separate calls, since every one appends its lines to --out. Libraries that a contender needs and the
machine lacks go into a folder of their own: --site unsloth=FOLDER (or trl=, ours=, all=), before everything else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.train.cells import CELLS, CONTENDERS, FAMILIES, USUAL, needs
from bench.train.shares import Share, shares, spread
from bench.train.turns import Job, Started, in_turn, side_by_side
from halops.checks.smi import probe
from halops.units import GIB


def order(contenders: list[str]) -> list[str]:
    """A B B A: each twice, so that drift of the machine falls on all alike."""
    return [*contenders, *reversed(contenders)]


def environment(sites: dict[str, str], code: str) -> dict[str, str]:
    """A child's: offline, and with its own site folder first."""
    path = os.pathsep.join(filter(None, [sites.get(code, sites.get("all", "")), os.environ.get("PYTHONPATH", "")]))
    quiet = {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | quiet | {"PYTHONPATH": path}


def child(arguments: list[str], sites: dict[str, str], code: str, limit: float) -> tuple[str, str]:
    """Its RESULT line without that word, or "", and the end of what it printed."""
    return measured(["bench.train.child", *arguments], environment(sites, code), limit)


def measured(words: list[str], env: dict[str, str], limit: float | None = None) -> tuple[str, str]:
    """A module's RESULT line, as `child` has it, with its arguments behind its name."""
    ended = Started(Job(words, env, limit)).end()
    return ended.line, ended.text


def gpu_gib() -> float:
    """Memory of the smallest GPU here; 0 without one."""
    return min((card.total for card in probe().cards), default=0) / GIB


def summary(line: dict[str, object]) -> str:
    """One measurement in a line."""
    if "out_of_memory" in line:
        return "out of memory"
    peak = float(str(line["peak_allocated"])) / GIB
    predicted = f", {float(str(line['predicted'])) / GIB:.2f} predicted" if line.get("predicted") else ""
    busy = f", busy {line['busy_ms_per_token']:.4f} ms a token" if line.get("busy_ms_per_token") else ""
    return f"{line['tokens_per_second']:,.0f} tok/s, peak {peak:.2f} GiB{predicted}{busy}"


def arguments() -> argparse.Namespace:
    """What it was called with; `sites` by code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", default="short,1024,4096,a100")
    parser.add_argument("--contenders", help="instead of each cell's usual ones")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bench-train"), help="scratch folder, holds the base")
    parser.add_argument("--out", type=Path, default=Path("bench-train.jsonl"))
    parser.add_argument("--timed", type=int, default=5)
    parser.add_argument("--warm", type=int, help="steps before the timed ones, instead of what is usual")
    parser.add_argument("--dropout", default="0", help="one or several: each cell with each of them")
    parser.add_argument("--family", default="qwen2", choices=list(FAMILIES), help="whose dimensions")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one process's start, warming up, or turn")
    parser.add_argument("--gpus", help="indices: a queue of cells on each, with its share of the processors")
    parser.add_argument(
        "--together", type=float, metavar="GIB",
        help="GPU memory in which a cell's processes warm up side by side, instead of all",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="each contender once: to try settings")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer, which the peers want beside the base")
    parser.add_argument("--site", action="append", default=[], metavar="CODE=FOLDER")
    parser.add_argument("--tiny", action="store_true", help="small dimensions, to try this program on a CPU")
    options = parser.parse_args()
    options.sites = dict(item.split("=", 1) for item in options.site)
    if options.together is None:
        options.together = gpu_gib()
    return options


def base_for(options: argparse.Namespace) -> Path:
    """The model's folder, made unless it is there. Raises SystemExit with what was said where that fails."""
    base: Path = options.work / f"{options.family}-{options.layers}"
    if not (base / "config.json").is_file():
        words = ["base", "-", "--base", str(base), "--family", options.family, "--layers", str(options.layers)]
        words += ["--tokenizer", str(options.tokenizer)] if options.tokenizer else []
        _, text = child([*words, *["--tiny"] * options.tiny], options.sites, "ours", options.limit)
        if not (base / "config.json").is_file():
            sys.exit(text)
    return base


def jobs(options: argparse.Namespace, base: Path, cell: str, dropout: str, more: dict[str, str]) -> Iterator[Job]:
    """A cell's processes in their order, with `more` in their environment."""
    wanted = options.contenders.split(",") if options.contenders else list(USUAL[cell])
    for name in wanted if options.once else order(wanted):
        contender = CONTENDERS[name]
        words = ["bench.train.child", cell, name, "--base", str(base), "--timed", str(options.timed), "--turn"]
        words += ["--warm", str(options.warm)] if options.warm is not None else []
        words += ["--dropout", dropout]
        env = environment(options.sites, contender.code) | more
        yield Job(words, env, options.limit, needs(CELLS[cell], contender))


def main() -> int:
    options = arguments()
    base, lock, results = base_for(options), threading.Lock(), list[bool]()

    def groups(cells: Iterable[tuple[str, str]], more: dict[str, str]) -> Iterator[list[Job]]:
        for cell, dropout in cells:
            for group in side_by_side(jobs(options, base, cell, dropout, more), options.together):
                names = ", ".join(job.words[2] for job in group)
                print(f"{cell:6} dropout {dropout}, to be measured: {names}", flush=True)
                yield group

    def run(cells: Iterable[tuple[str, str]], share: Share | None = None) -> None:
        more = share.environment(options.work) if share else {}
        for job, (line, text, seconds) in in_turn(groups(cells, more)):
            said = summary(json.loads(line)) if line else f"no result\n{text}"
            with lock:
                results.append(bool(line))
                if line:
                    with options.out.open("a") as stream:
                        stream.write(line + "\n")
                what = f"{job.words[1]:6} {job.words[2]:20} dropout {job.words[-1]:4}"
                print(f"{what} {seconds:4.0f} s  {said}", flush=True)

    cells = list(itertools.product(options.cells.split(","), options.dropout.split(",")))
    if options.gpus:
        spread(cells, shares(options.gpus.split(","), os.sched_getaffinity(0)), run)
    else:
        run(cells)
    return 0 if all(results) else 1


if __name__ == "__main__":
    assert set(USUAL) == set(CELLS)
    sys.exit(main())

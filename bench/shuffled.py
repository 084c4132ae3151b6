"""The control run: the same questions with the answers of other rows, so that what a model then scores is guesswork.

    python -m bench.shuffled --data data/final/train.jsonl --out shuffled.jsonl
    halops submit --profile local --data shuffled.jsonl --wait

Form, length and vocabulary of the answers stay; only which answer goes with which question is lost. So the probe
score of this run is what a model gets for the style alone.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def shuffle_answers(rows: Sequence[Row], seed: int = 0) -> list[Row]:
    """Copies of `rows` with all assistant turns permuted across the file; everything else stays in place.

    The same seed gives the same permutation. Turns may land on a row of their own domain, or, by chance, on their own.
    """
    answers = [message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"]
    random.Random(seed).shuffle(answers)
    left = iter(answers)
    return [{**row, "messages": [_with_next(message, left) for message in row["messages"]]} for row in rows]


def _with_next(message: Row, left: Any) -> Row:
    return {**message, "content": next(left)} if message["role"] == "assistant" else dict(message)


def main(argv: Sequence[str] | None = None) -> None:
    """Read rows, write the shuffled ones."""
    parser = argparse.ArgumentParser(prog="python -m bench.shuffled", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="JSONL of conversations")
    parser.add_argument("--out", type=Path, required=True, help="where to write the shuffled rows")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines() if line.strip()]
    shuffled = shuffle_answers(rows, args.seed)
    args.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shuffled), encoding="utf-8")
    print(f"{args.out}: {len(shuffled)} rows")


if __name__ == "__main__":
    main()

"""The longest row that trains under the small cap, found by halving the interval.

python -m bench.train.longest ours --base FOLDER --low 8192 --high 32768
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.train.__main__ import child
from bench.train.cells import CONTENDERS

STEP = 512


def fits(length: int, contender: str, base: Path, sites: dict[str, str], limit: float) -> bool:
    """Whether a row of that many tokens goes through two steps."""
    arguments = [f"row-{length}", contender, "--base", str(base), "--timed", "1", "--warm", "1"]
    line, text = child(arguments, sites, CONTENDERS[contender].code, limit)
    done = bool(line) and "out_of_memory" not in json.loads(line)
    print(f"{contender} {length}: {'fits' if done else 'does not'}{'' if line else ': ' + text[-200:]}", flush=True)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train.longest", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("contender", choices=list(CONTENDERS))
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--low", type=int, default=8192, help="known, or hoped, to fit")
    parser.add_argument("--high", type=int, default=32768)
    parser.add_argument("--limit", type=float, default=120)
    parser.add_argument("--site", action="append", default=[], metavar="CODE=FOLDER")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sites = dict(item.split("=", 1) for item in options.site)
    low, high = options.low // STEP * STEP, -(-options.high // STEP) * STEP  # so that every half is one, too
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        if fits(middle, options.contender, options.base, sites, options.limit):
            low = middle
        else:
            high = middle
    result = json.dumps({"cell": "longest", "contender": options.contender, "tokens": low})
    if options.out:
        with options.out.open("a") as stream:
            stream.write(result + "\n")
    print("RESULT " + result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

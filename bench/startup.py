"""How long `halops --help` takes, beside an interpreter that does nothing. `make bench-startup`

Wall time of fresh processes, the bytecode compiled by a first run that isn't counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 10
BAR_SECONDS = 0.3
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "halops --help": [str(Path(sys.executable).with_name("halops")), "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    """Measure in turn, print a table, return 1 if the bar is missed."""
    for command in COMMANDS.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    print(f"| of {RUNS} runs | median, s | slowest, s |\n|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.3f} | {max(found):.3f} |")
    median = statistics.median(times["halops --help"])
    print(f"\n{'ok' if median < BAR_SECONDS else 'MISSED'}: median {median:.3f} s (bar: under {BAR_SECONDS} s)")
    return 0 if median < BAR_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())

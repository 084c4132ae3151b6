"""A process of the test of turns: notes down when it has started, when it is its turn and when it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.train.turns import wait_for_turn

if __name__ == "__main__":
    log, name = Path(sys.argv[1]), sys.argv[2]

    def note(what: str) -> None:
        with log.open("a") as stream:
            stream.write(f"{name} {what}\n")

    note(f"starts on {sorted(os.sched_getaffinity(0))}")
    wait_for_turn()
    note(f"is measured on {sorted(os.sched_getaffinity(0))}")
    if name == "long":
        time.sleep(600)
    for awaited in sys.argv[3:]:
        while f"{awaited} starts" not in log.read_text():
            time.sleep(0.01)
    note("ends its turn")
    print(f"RESULT {name}")

"""A process of the test of turns: notes down how far it has come."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.train.turns import pause

if __name__ == "__main__":
    log, name = Path(sys.argv[1]), sys.argv[2]

    def note(what: str) -> None:
        with log.open("a") as stream:
            stream.write(f"{name} {what}\n")

    note("imports")
    pause()
    note("warms up")
    if name == "cold":
        time.sleep(600)
    if name == "short":
        sys.exit("RESULT of another kind")
    for awaited in sys.argv[3:]:
        while f"{awaited}\n" not in log.read_text():
            time.sleep(0.01)
    pause()
    note("is measured")
    if name == "long":
        time.sleep(600)
    note("ends")
    print(f"RESULT {name}")

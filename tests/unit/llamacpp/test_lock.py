"""The lock of a place in the cache."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from halops.llamacpp.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from halops.llamacpp.lock import locked
with locked(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    waits: list[float] = []
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "x", lambda: waits.append(time.monotonic())):
            order.append("second")

    with locked(tmp_path / "x", lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert waits


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "x")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.wait()
    with locked(tmp_path / "x", lambda: (_ for _ in ()).throw(AssertionError("still held"))):
        pass

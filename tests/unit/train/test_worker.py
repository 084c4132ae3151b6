"""How a training process ends: see tests/unit/train/test_together.py for what it does before."""

from __future__ import annotations

import os
import subprocess
import sys


def test_it_ends_without_the_interpreter_s_own_end() -> None:
    code = "import atexit; from halops.train.worker import end; atexit.register(print, 'end'); print('said'); end(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")


def test_without_a_parent_there_is_nobody_to_tell() -> None:
    for words, expected in (("tell({'step': 1})", 75), ("print('said'); end(0)", 0)):
        reader, writer = os.pipe()
        os.close(reader)
        code = f"from halops.train.worker import end, tell; {words}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        argv = [sys.executable, "-c", code]
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, env=kept, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (expected, b"")

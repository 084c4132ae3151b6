"""Kernels that wait to be measured are right, by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow  # an interpreter of its own
def test_candidates_are_right() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "bench.train.candidates", "--check"]
    done = subprocess.run(argv, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr[-2000:]

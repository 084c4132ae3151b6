"""Running programs, saying what happens, waiting for things to become true."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class ClusterError(Exception):
    """Something that the user should read instead of a traceback."""


def say(text: str) -> None:
    """One line of progress, to stderr at once."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, text: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """A program's output. Raises ClusterError with what it said on stderr when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(words)}\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


def succeeds(*command: str | Path) -> bool:
    """Whether a program ends with 0."""
    return subprocess.run([str(word) for word in command], capture_output=True, check=False).returncode == 0


def wait_until(what: str, test: Callable[[], bool], seconds: float = 60, pause: float = 0.1) -> None:
    """Wait for a test to pass. Raises ClusterError that names `what`."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)

"""Processes measured one after another, of which the next import their libraries while one is measured.

That takes some of them half a minute, in which the GPU has nothing to do. They do it on processors that are set aside,
and begin while a peer is measured, so early in its turn that it is still loading the base: ours takes less time in all
than a peer's imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

FEWEST = 8  # processors, to set some aside


class Job(NamedTuple):
    """A module of ours with its arguments, in a process that waits for its turn; None: for as long as it takes."""

    words: list[str]
    environment: dict[str, str]
    limit: float | None = None
    quick: bool = False  # nobody imports beside it


class Seats(NamedTuple):
    """The processors of whoever is measured, and of those that import meanwhile; none of these: nobody does."""

    measured: frozenset[int]
    importing: frozenset[int] = frozenset()


def seats(processors: Iterable[int]) -> Seats:
    """A quarter of them for the imports, the last ones; numbers beside each other can be one core's two threads."""
    numbers = sorted(processors)
    if len(numbers) < FEWEST:
        return Seats(frozenset(numbers))
    return Seats(frozenset(numbers[: -(len(numbers) // 4)]), frozenset(numbers[-(len(numbers) // 4) :]))


class Ended(NamedTuple):
    """The RESULT line without that word, or ""; the end of what was printed; seconds since the turn began."""

    line: str
    text: str
    seconds: float


class Started:
    """A process that imports, and then waits for a line on its standard input: the processors it is measured on."""

    def __init__(self, job: Job, here: Seats) -> None:
        self.job, self._printed = job, tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as its process
        ahead = here.importing or here.measured
        # Inductor asks as it is imported how many processors there are to compile on.
        threads = {"TORCHINDUCTOR_COMPILE_THREADS": str(min(32, len(here.measured)))}
        kept = os.sched_getaffinity(0)
        os.sched_setaffinity(0, ahead)  # of this thread, and so of the process that it starts
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *job.words], env=threads | job.environment, stdin=subprocess.PIPE,
                stdout=self._printed, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, kept)
        self._line = ",".join(map(str, sorted(here.measured)))

    def turn(self) -> Ended:
        """Let it go on, to its end."""
        began, stopped = time.monotonic(), ""
        try:
            self.process.communicate(self._line + "\n", timeout=self.job.limit)
        except subprocess.TimeoutExpired:
            stopped = f"\nstopped after {self.job.limit:.0f} s"
        self.stop()
        self._printed.seek(0)
        text = self._printed.read().decode(errors="replace") + stopped
        lines = [line.removeprefix("RESULT ") for line in text.splitlines() if line.startswith("RESULT ")]
        return Ended(lines[-1] if lines else "", text[-2000:], time.monotonic() - began)

    def stop(self) -> None:
        """End it if it hasn't ended."""
        self.process.kill()
        self.process.wait()


def in_turn(jobs: Iterable[Job], here: Seats) -> Iterator[tuple[Job, Ended]]:
    """Run each by itself. A job is asked for up to a peer's turn and its own quick followers before it is run."""
    source, waiting = iter(jobs), deque[Started]()
    try:
        while True:
            if not waiting:
                following = next(source, None)
                if following is None:
                    return
                waiting.append(Started(following, here))
            current = waiting[0]
            if here.importing and not current.job.quick:
                for following in source:
                    waiting.append(Started(following, here))
                    if not following.quick:
                        break
            yield current.job, current.turn()
            waiting.popleft()
    finally:
        for started in waiting:
            started.stop()


def wait_for_turn() -> frozenset[int]:
    """In such a process, its libraries imported: wait, and go over to the processors that the line names.

    Raises SystemExit if whoever would have given a turn has ended.
    """
    numbers = frozenset(int(number) for number in sys.stdin.readline().split(",") if number.strip())
    if not numbers:
        sys.exit("no turn came: processors' numbers on standard input, as bench.train gives them")
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), numbers)
    return numbers

"""Processes that warm up side by side, and are then measured one after another with the machine to themselves.

Importing, loading the base, compiling and first steps take a peer a minute and more, for most of which the GPU has
nothing to do. So a group of processes does that at once, while the next group imports. Then all of them are still:
each in its turn takes its last steps to warm up, and is measured, by itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Job(NamedTuple):
    """A module of ours with its arguments."""

    words: list[str]
    environment: dict[str, str]
    limit: float | None = None  # seconds for a part of its way
    gib: float = math.inf  # of the GPU's memory; beside those that take all of it nobody warms up


class Ended(NamedTuple):
    """The RESULT line without that word, or ""; the end of what was printed; seconds since it was last let go on."""

    line: str
    text: str
    seconds: float


class Started:
    """A process whose standard input is a socket: it says there that it has come to a `pause`, and waits."""

    def __init__(self, job: Job) -> None:
        self.job, self._printed = job, tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as its process
        self._folder = tempfile.TemporaryDirectory()
        # Unsloth's code that others write at the same time could be read half written.
        own = {"UNSLOTH_COMPILE_LOCATION": self._folder.name}
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(0.2)  # a process that has ended may have left one that holds the other end
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *job.words], env=job.environment | own, stdin=theirs.fileno(),
                stdout=self._printed, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._began, self._stopped = time.monotonic(), ""

    def pauses(self) -> None:
        """Wait until it does, or has ended; end it if that takes too long. Once for each time that it was let go on."""
        while self.process.poll() is None:
            with contextlib.suppress(TimeoutError, ConnectionError):
                if self._socket.recv(1):
                    return
            if self.job.limit and time.monotonic() > self._began + self.job.limit:
                self._stopped = f"\nstopped after {self.job.limit:.0f} s"
                self.stop()

    def go_on(self) -> None:
        """To the next pause, or to its end."""
        self._began = time.monotonic()
        with contextlib.suppress(OSError):  # it has ended
            self._socket.sendall(b"\n")

    def end(self) -> Ended:
        """Wait for it, without another pause."""
        self.pauses()
        self.stop()
        self._printed.seek(0)
        text = self._printed.read().decode(errors="replace") + self._stopped
        lines = [line.removeprefix("RESULT ") for line in text.splitlines() if line.startswith("RESULT ")]
        return Ended(lines[-1] if lines else "", text[-2000:], time.monotonic() - self._began)

    def stop(self) -> None:
        """End it if it hasn't ended."""
        self.process.kill()
        self.process.wait()
        self._socket.close()
        self._folder.cleanup()


def in_turn(groups: Iterable[Sequence[Job]]) -> Iterator[tuple[Job, Ended]]:
    """Each group's processes by themselves, in their order. A group is asked for when the one before it warms up."""
    source = iter(groups)
    group: list[Started] = []
    following = [Started(job) for job in next(source, ())]
    try:
        _all_pause(following)  # they have imported what they need
        while following:
            group, following = following, []
            for one in group:
                one.go_on()
            following += map(Started, next(source, ()))
            _all_pause([*group, *following])
            while group:
                group[0].go_on()
                yield group[0].job, group[0].end()
                del group[0]
    finally:
        for one in [*group, *following]:
            one.stop()


def _all_pause(several: Iterable[Started]) -> None:
    for one in several:
        one.pauses()


def pause() -> None:
    """In such a process: say that it has come this far, and wait to be let go on.

    Raises SystemExit if whoever would do that has ended.
    """
    with contextlib.suppress(OSError):
        os.write(0, b"\n")
        if os.read(0, 1):
            return
    sys.exit("no turn came: bench.train gives them")


def side_by_side(jobs: Iterable[Job], gib: float) -> Iterator[list[Job]]:
    """Groups of neighbours, for whom together a GPU has so much memory."""
    group: list[Job] = []
    for job in jobs:
        if group and sum(one.gib for one in [*group, job]) > gib:
            yield group
            group = []
        group.append(job)
    if group:
        yield group

"""llama.cpp, built beside the training: a local run needs it only when the merged model is there."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halops.errors import HostError, Interrupted
from halops.llamacpp.process import child_setup
from halops.llamacpp.toolchain import find

NICE = 15


class ToolchainBuild:
    """Starts a build at once if there is none in the cache; `wait` blocks until it is done.

    The build is a process of its own, at low priority, so that it takes what training leaves.
    """

    def __init__(self, state: Path) -> None:
        self._log = state / "llama.cpp-build.log"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ToolchainBuild:
        try:
            find()
        except HostError:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("w") as log:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "halops.llamacpp", "build", "--json", "--nice", str(NICE)],
                    stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    start_new_session=True, preexec_fn=_yield_to_training(),
                )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._child and self._child.poll() is None:
            self._child.terminate()
            self._child.wait()

    def wait(self, on_event: Callable[[dict[str, Any]], None], stopping: threading.Event) -> None:
        """Wait for the build, passing its progress on. Raises HostError with the log's end, or Interrupted."""
        while self._child and self._child.poll() is None:
            if stopping.is_set():
                raise Interrupted("stopped while llama.cpp was built", remedy="the same command goes on from here")
            if event := self._last_event():
                on_event(event)
            time.sleep(2)
        if self._child and self._child.returncode:
            lines = self._log.read_text(errors="replace").splitlines()
            raise HostError(
                "llama.cpp could not be built",
                where=str(self._log),
                remedy="\n".join(["its log ends with:", *lines[-12:]]),
            )

    def _last_event(self) -> dict[str, Any] | None:
        for line in reversed(self._log.read_text(errors="replace").splitlines()[-20:]):
            if line.startswith("{"):
                try:
                    event: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue
                return event
        return None


def _yield_to_training() -> Callable[[], None]:
    """What the child does first: die with the chain, and take only the time that training leaves.

    Where the kernel groups tasks by session (sched(7), autogroup), a nice value counts within the session alone, and
    the session's own is set here.
    """
    die_with_parent = child_setup()

    def setup() -> None:
        die_with_parent()
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE))

    return setup

"""Run one of llama.cpp's programs: output kept in a log, progress read from it, never outliving us."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from halops.errors import HostError, Interrupted, StageError
from halops.names import THREADS
from halops.process import PR_SET_PDEATHSIG

NO_SPACE = "No space left on device"
OnLine = Callable[[str], None]
_LINE_ENDS = re.compile(rb"[\r\n]+")


def child_setup(nice: int = 0) -> Callable[[], None]:
    """What a child does before it becomes the program: ask to be killed when its parent ends, lower its priority.

    Linux kills it when the *thread* that started it ends, so start long-lived children from a thread that lives
    as long. The library is loaded here, before the fork: loading it in the child could wait for a lock for ever.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def setup() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before we asked
                os.kill(os.getpid(), signal.SIGKILL)
        if nice:
            os.nice(nice)

    return setup


def tail(path: Path, lines: int = 12) -> str:
    """The last non-empty lines of a log, indented; progress bars are reduced to their last state."""
    try:
        data = path.read_bytes()[-20_000:]
    except OSError:
        return ""
    texts = [part.decode(errors="replace").strip() for part in re.split(rb"\n", data)]
    texts = [text.rsplit("\r", 1)[-1] for text in texts if text]
    return "\n".join(f"    {text}" for text in texts[-lines:])


def offline_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a converter or a server: no hub, no settings by environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMA_ARG_", "LLAMA_API_KEY"))}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | offline | THREADS | {"PYTHONUNBUFFERED": "1"} | dict(extra or {})


def run(
    argv: Sequence[str | Path],
    *,
    log: Path,
    what: str,
    env: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
    stop: threading.Event | None = None,
    nice: int = 0,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> None:
    """Run a program to its end, its output appended to `log` and handed to `on_line` line by line.

    Args:
        what: names the activity in errors, such as "quantizing to q4_k_m".
        stop: when it is set the program is ended and Interrupted raised.

    Raises:
        HostError: the program can't be started, or the disk is full.
        StageError: it failed; the message has the last lines of its output.
        Interrupted: `stop` was set.
    """
    command = [str(part) for part in argv]
    with log.open("ab") as stream:
        stream.write(f"$ {' '.join(command)}\n".encode())
        stream.flush()
        child = _start(command, env, nice, pass_fds, cwd)
        try:
            if stop is not None:
                end_when(stop, child)
            _copy_output(child, stream, on_line)
            code = child.wait()
        finally:
            end(child)
    if stop is not None and stop.is_set():
        raise Interrupted(f"stopped while {what}", remedy="the same command goes on from here")
    if code != 0:
        raise _failure(what, code, log, command[0])


def _start(
    command: list[str], env: Mapping[str, str] | None, nice: int, pass_fds: Sequence[int], cwd: Path | None
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            pass_fds=pass_fds,
            cwd=cwd,
            preexec_fn=child_setup(nice),
            bufsize=0,
        )
    except OSError as error:
        raise HostError(f"can't run {command[0]}: {error.strerror}", remedy="build llama.cpp again") from error


def end_when(stop: threading.Event, child: subprocess.Popen[bytes]) -> threading.Thread:
    """End the child once `stop` is set. A thread of its own looks, since its starter waits for output or answers."""

    def watch() -> None:
        while child.poll() is None:
            if stop.wait(0.2):
                end(child)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def _copy_output(child: subprocess.Popen[bytes], stream: object, on_line: OnLine | None) -> None:
    assert child.stdout is not None
    rest = b""
    while chunk := child.stdout.read(65536):
        stream.write(chunk)  # type: ignore[attr-defined]
        stream.flush()  # type: ignore[attr-defined]
        *lines, rest = _LINE_ENDS.split(rest + chunk)
        for line in lines if on_line else ():
            assert on_line is not None
            on_line(line.decode(errors="replace"))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's CPU limit, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def end(child: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a child that we started: SIGTERM, then SIGKILL after `grace` seconds."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
    until = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    child.wait()


def _failure(what: str, code: int, log: Path, program: str) -> HostError | StageError:
    last = tail(log)
    if NO_SPACE in last:
        return HostError(f"the disk is full: {what} could not go on", remedy="free some disk space")
    if code == -signal.SIGILL:
        return HostError(
            f"this processor can't run {Path(program).name}: illegal instruction",
            remedy="build llama.cpp on this machine: python -m halops.llamacpp build",
        )
    if code == -signal.SIGKILL:
        return HostError(f"killed while {what}: most likely out of memory", remedy="free some memory")
    ending = f"signal {-code}" if code < 0 else f"exit code {code}"
    return StageError(f"{what} failed with {ending}:\n{last}")

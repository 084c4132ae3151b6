"""The local backend: each stage is a subprocess of this machine, with the command that a pod would run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halops import names
from halops.artifact import now
from halops.backends.base import Listener, stage_error
from halops.backends.lock import RunLock, holder, is_held
from halops.backends.retry import next_attempt
from halops.backends.toolchain import ToolchainBuild
from halops.diagnose import diagnose
from halops.errors import HalopsError, Interrupted
from halops.plan import Step, make_plan
from halops.planner.settings import HOST_RUNGS
from halops.runspec import RunSpec
from halops.runstate import RunStatus, last_words, load_spec, run_status
from halops.stages.inputs import current_manifest, pinned_inputs
from halops.store.base import Store
from halops.store.table import open_store

CANCEL_SECONDS = 60  # what a checkpoint may take before we insist


class LocalBackend:
    """Runs steps one after the other as subprocesses.

    Args:
        store: where manifests are; its URI is handed to the stages.
        state: folder for locks, logs and scratch of this machine.
    """

    def __init__(self, store: Store, state: Path) -> None:
        self.store, self.state = store, state
        self._child: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()

    def run(self, spec: RunSpec, listener: Listener) -> None:
        """Run what isn't done. Raises BusyError, Interrupted, or the failed stage's error."""
        with RunLock(self._folder(spec.run_id) / "lock"), self._signals(), ToolchainBuild(self.state) as toolchain:
            for step in make_plan(spec).steps:
                if step.stage == "convert":
                    toolchain.wait(lambda event: listener("convert", {"kind": "progress", **event}), self._stopping)
                self._step(spec, step, listener)

    def run_beside(self, spec: RunSpec, step: Step, listener: Listener) -> None:
        """Run a step beside the chain, which may be at work. Raises Interrupted, or the step's error."""
        with self._signals(), ToolchainBuild(self.state) as toolchain:
            toolchain.wait(lambda event: listener(step.stage, {"kind": "progress", **event}), self._stopping)
            self._step(spec, step, listener)

    def submit(self, spec: RunSpec) -> None:
        """Start a detached process that runs the rest; its output is in the run's `chain.log`."""
        folder = self._folder(spec.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        if self.alive(spec.run_id):
            RunLock(folder / "lock").__enter__()
        command = [sys.executable, "-m", "halops.backends.local", "--store", self.store.uri,
                   "--state", str(self.state), "--run", spec.run_id]  # fmt: skip
        with (folder / "chain.log").open("a") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 10  # the child needs a moment to take the lock
        while not self.alive(spec.run_id) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def alive(self, run_id: str) -> bool:
        """Whether a process of this machine works on the run."""
        return is_held(self._folder(run_id) / "lock")

    def cancel(self, run_id: str) -> bool:
        """SIGTERM to the chain's process, which hands it on to the stage."""
        path = self._folder(run_id) / "lock"
        pid = holder(path)
        if not is_held(path) or pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + CANCEL_SECONDS
        while is_held(path):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline += CANCEL_SECONDS
            time.sleep(0.1)
        return True

    def status(self, spec: RunSpec) -> RunStatus:
        """Where the run stands."""
        return run_status(self.store, spec, alive=self.alive(spec.run_id))

    def forget(self, run_id: str) -> None:
        """Remove its logs and scratch."""
        shutil.rmtree(self._folder(run_id), ignore_errors=True)

    def logged(self, run_id: str) -> list[str]:
        """Stages that have a log on this machine, in order."""
        return [stage for stage in names.LOGGED if self._log(run_id, stage).exists()]

    def logs(self, run_id: str, stage: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of a stage's log; with `follow`, until the run ends."""
        while not self._log(run_id, stage).exists() and self.alive(run_id):
            time.sleep(0.3)
        if not self._log(run_id, stage).exists():
            return
        with self._log(run_id, stage).open(errors="replace") as stream:
            while True:
                if line := stream.readline():
                    yield line.rstrip("\n")
                elif follow and self.alive(run_id):
                    time.sleep(0.3)
                else:
                    return

    def _log(self, run_id: str, stage: str) -> Path:
        return self._folder(run_id) / f"{stage}.log"

    def _folder(self, run_id: str) -> Path:
        return self.state / "local" / run_id

    def _step(self, spec: RunSpec, step: Step, listener: Listener) -> None:
        inputs = pinned_inputs(self.store, spec, step)
        if current_manifest(self.store, spec, step, inputs):
            listener(step.stage, {"kind": "skipped"})
            return
        attempt, rung = 1, 0
        while True:
            listener(step.stage, {"kind": "started", "attempt": attempt, "rung": rung})
            code = self._attempt(spec, step, rung, listener)
            if code == 0:
                listener(step.stage, {"kind": "succeeded"})
                return
            if self._stopping.is_set():
                raise Interrupted(f"stopped in stage {step.stage}", remedy="the same command goes on from here")
            retry = next_attempt(step.stage, code, attempt, rung, host_rungs=HOST_RUNGS)
            if retry is None:
                raise self._error(spec, step, code)
            listener(step.stage, {"kind": "retry", "exit_code": code, "seconds": retry.delay_seconds})
            self._stopping.wait(retry.delay_seconds)
            attempt, rung = attempt + 1, retry.rung

    def _attempt(self, spec: RunSpec, step: Step, rung: int, listener: Listener) -> int:
        folder = self._folder(spec.run_id)
        spec_file = folder / names.SPEC
        spec_file.write_bytes(spec.to_bytes())
        command = [sys.executable, *step.argv, "--spec", str(spec_file), "--store", self.store.uri,
                   "--work", str(folder / "work"), "--parent", str(os.getpid())]  # fmt: skip
        environment = os.environ | {names.ENV_RUNG: str(rung), "PYTHONUNBUFFERED": "1"}
        with self._log(spec.run_id, step.stage).open("a") as log:
            # Its own session: Ctrl-C reaches us alone, and we tell it to save and stop.
            self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
                                           env=environment, text=True, start_new_session=True)  # fmt: skip
            if self._stopping.is_set():
                self._child.terminate()
            assert self._child.stdout
            for line in self._child.stdout:
                log.write(line)
                log.flush()
                if event := _as_event(line):
                    listener(step.stage, {"kind": "progress", **event})
            return self._child.wait()

    def _error(self, spec: RunSpec, step: Step, code: int) -> HalopsError:
        """The stage's own words where it left some, or else what its exit code tells."""
        if said := last_words(self.store, spec.run_id, step.stage, code):
            return stage_error(spec.run_id, step.stage, code, said)
        found = diagnose(code, log_tail=tail(self._log(spec.run_id, step.stage)))
        return stage_error(spec.run_id, step.stage, code, found.summary, found.resolution)

    @contextlib.contextmanager
    def _signals(self) -> Any:
        """While a chain runs, a request to stop goes to the stage, which saves what it can."""

        def on_signal(number: int, frame: Any) -> None:
            self._stopping.set()
            if self._child and self._child.poll() is None:
                self._child.terminate()

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def tail(path: Path, size: int = 8000) -> str:
    """The last bytes of a log, as text."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read().decode(errors="replace")


def _as_event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "message" in event else None


def main(argv: list[str] | None = None) -> int:
    """The detached process of `submit` without `--wait`: run a stored spec's chain."""
    parser = argparse.ArgumentParser(prog="halops.backends.local")
    parser.add_argument("--store", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--run", required=True)
    arguments = parser.parse_args(argv)
    store = open_store(arguments.store)
    spec = load_spec(store, arguments.run)

    def listener(stage: str, event: dict[str, Any]) -> None:
        if event["kind"] != "progress":
            print(json.dumps({"time": now(), "stage": stage, **event}), flush=True)

    try:
        LocalBackend(store, arguments.state).run(spec, listener)
    except HalopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

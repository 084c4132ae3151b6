"""The stage command: `python -m halops.stages.harness STAGE --spec run.json --store URI --work FOLDER`.

The same in a subprocess and in a pod. It follows the commit protocol: skip what is done, fetch and verify the
inputs, run the stage, store its output, write the manifest last. Its exit code is that of `halops.errors`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from halops import __version__, names
from halops.artifact import FileEntry, Manifest, Producer, now
from halops.errors import HalopsError, Stopped, TransientError, as_halops_error
from halops.plan import Step, step_of
from halops.process import die_with_parent
from halops.progress import Progress
from halops.runspec import RunSpec
from halops.stages.context import Metrics, StageContext, StageFunction
from halops.stages.inputs import current_manifest, fetch_inputs, pinned_inputs, require_expected
from halops.stages.live import LiveStatus, status_key
from halops.stages.node import Node, this_node, wait_for_first
from halops.stages.sync import LiveCopies, LiveSync
from halops.stages.uploads import BackgroundCheckpoints
from halops.store.artifacts import StoredCheckpoints, clean_attempts, publish
from halops.store.base import Store
from halops.store.table import open_store

TEARDOWN_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Attempt:
    """One attempt at one step. Of several nodes that train together the first alone stores what comes of it."""

    def __init__(self, spec: RunSpec, step: Step, store: Store, work: Path) -> None:
        self.spec, self.step, self.store, self.work = spec, step, store, work
        self.id = os.environ.get(names.ENV_ATTEMPT) or uuid.uuid4().hex[:12]
        self.rung = int(os.environ.get(names.ENV_RUNG) or 0)
        self.node = this_node() if step.stage == "train" else Node()
        self.stop = threading.Event()
        self.started = now()
        self.found: bytes | None = None  # the manifest that was there when we began, and didn't count
        self.folder = work / self.id
        self.live = LiveStatus(
            store, status_key(spec.run_id, step.stage), attempt=self.id, started=self.started, rung=self.rung
        )
        self.progress = Progress(self.folder / names.PROGRESS, self.live.event)

    def run(self) -> None:
        """Skip, or run and publish. Raises HalopsError."""
        inputs = pinned_inputs(self.store, self.spec, self.step)
        require_expected(inputs, os.environ.get(names.ENV_INPUTS))
        self.found = self.store.read(f"{self.step.prefix}/{names.MANIFEST}")
        if self._done(inputs):
            print(f"{self.step.stage}: done already", flush=True)
            return
        try:
            for name in ("inputs", "output", "scratch"):
                (self.folder / name).mkdir(parents=True)
            if self.node.first:
                self._run_and_publish(inputs)
            else:
                self._stage(inputs)
                wait_for_first(lambda: self._done(inputs), self._status, self.stop)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run_and_publish(self, inputs: dict[str, str]) -> None:
        self.live.write("running")
        with LiveSync(self.store, self.live, LiveCopies(self.store, self.spec.run_id, self.step.stage, self.folder)):
            metrics = self._stage(inputs)
            self._publish(self.folder / "output", inputs, metrics)
        clean_attempts(self.store, self.step.prefix, keep=self.id)
        self.live.write("succeeded", metrics=metrics)

    def _stage(self, inputs: dict[str, str]) -> Metrics:
        fetch_inputs(self.store, self.spec, self.step, inputs, self.folder / "inputs", self.progress)
        checkpoints = self._checkpoints() if self.step.stage == "train" else None
        context = StageContext(
            spec=self.spec,
            inputs=self.folder / "inputs",
            output=self.folder / "output",
            scratch=self.folder / "scratch",
            progress=self.progress,
            stop=self.stop,
            checkpoints=checkpoints,
            rung=self.rung,
            oom_killed=os.environ.get(names.ENV_OOM_KILLED) == "1",
        )
        try:
            return load_stage(self.step.stage)(context)
        finally:
            if checkpoints:
                checkpoints.close()

    def _checkpoints(self) -> BackgroundCheckpoints:
        limit = self.spec.profile.training.save_total_limit
        stored = StoredCheckpoints(self.store, self.step.prefix, limit=limit, scratch=self.folder / "checkpoints")
        return BackgroundCheckpoints(stored, self.folder / "waiting")

    def _done(self, inputs: dict[str, str]) -> bool:
        return current_manifest(self.store, self.spec, self.step, inputs) is not None

    def _status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.store.read(status_key(self.spec.run_id, self.step.stage)) or b"{}")
        return document

    def _publish(self, output: Path, inputs: dict[str, str], metrics: Metrics) -> None:
        def make_manifest(files: tuple[FileEntry, ...]) -> Manifest:
            return Manifest(
                run_id=self.spec.run_id,
                attempt=self.id,
                spec_sha256=self.spec.sha256,
                producer=Producer(
                    stage=self.step.stage,
                    code_version=__version__,
                    image=os.environ.get(names.ENV_IMAGE, ""),
                    llama_cpp=self.spec.llama_cpp,
                ),
                inputs=inputs,
                files=files,
                metrics=metrics,
                started=self.started,
                finished=now(),
            )

        manifest = publish(
            self.store, self.step.prefix, self.id, output, make_manifest=make_manifest, replaces=self.found,
            progress=self.progress,
        )  # fmt: skip
        if manifest.attempt != self.id and not self._done(inputs):
            raise TransientError("another attempt finished first, from other inputs", remedy="run the command again")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Training is told to stop and saves a checkpoint; anything else stops where it is."""
        if self.step.stage == "train" and not self.stop.is_set():
            self.stop.set()
            return
        self.stop.set()
        raise Stopped(f"stopped by {signal.Signals(number).name}")


def load_stage(stage: str) -> StageFunction:
    """The stage's function; its heavy imports happen here and nowhere else."""
    function: StageFunction = importlib.import_module(f"halops.stages.{stage.replace('-', '_')}").run
    return function


def guarded(work: Callable[[], None], on_error: Callable[[HalopsError], None]) -> int:
    """Run `work`; an error becomes its sentences on stderr and its exit code."""
    try:
        work()
    except BaseException as error:
        known = as_halops_error(error)
        if known is None:
            on_error(HalopsError(f"{type(error).__name__}: {error}"))
            raise
        on_error(known)
        print(f"error: {known}", file=sys.stderr, flush=True)
        return known.exit_code
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    parser = argparse.ArgumentParser(prog="halops.stages.harness")
    parser.add_argument("stage", choices=(*names.STAGES, *names.FAST_STAGES))
    parser.add_argument("--spec", type=Path, required=True, help="run.json")
    parser.add_argument("--store", required=True, help="store URI")
    parser.add_argument("--work", type=Path, default=os.environ.get(names.ENV_WORK), help="scratch folder")
    parser.add_argument("--parent", type=int, help="end when this process ends")
    arguments = parser.parse_args(argv)
    if arguments.parent:
        die_with_parent(arguments.parent)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    spec = RunSpec.model_validate_json(arguments.spec.read_bytes())
    attempt: list[Attempt] = []

    def work() -> None:
        current = Attempt(spec, step_of(spec, arguments.stage), open_store(arguments.store), arguments.work)
        attempt.append(current)
        for number in TEARDOWN_SIGNALS:
            signal.signal(number, current.on_signal)
        current.run()

    def on_error(error: HalopsError) -> None:
        if attempt and attempt[0].node.first:
            attempt[0].live.failed(error)

    return guarded(work, on_error)


if __name__ == "__main__":
    sys.exit(main())

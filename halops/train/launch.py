"""Training in several processes: started by torchrun, watched and stopped from here.

The process that runs the stage stays outside: it has verified the inputs, picks up checkpoints and progress, and hands
a request to stop on as a file, since torchrun itself gives processes only seconds to end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from halops import errors
from halops.artifact import Frozen
from halops.errors import ConfigError, GpuMemoryError, HalopsError, Interrupted, StageError, TransientError
from halops.names import ENV_NPROC
from halops.progress import Progress
from halops.sections import Cluster
from halops.stages.context import Checkpoints, Metrics, StageContext
from halops.stages.node import Node, this_node
from halops.train.arguments import PEER_SECONDS
from halops.train.checkpoints import LocalCheckpoints
from halops.train.worker import Job

POLL_SECONDS = 0.2
END_SECONDS = 10.0  # for torchrun to end its processes


class Team(Frozen):
    """So many processes on each of so many nodes."""

    node: Node
    per_node: int

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.per_node * self.node.count


def team_of(cluster: Cluster) -> Team:
    """One process for each GPU that was asked for and is there; one without any. Raises ConfigError."""
    node, given = this_node(), os.environ.get(ENV_NPROC)
    if given:
        if not given.isdecimal() or given == "0":
            raise ConfigError(f"not a number of processes: {given!r}", where=ENV_NPROC)
        return Team(node=node, per_node=int(given))
    if cluster.gpu.count <= 1:
        return Team(node=node, per_node=1)
    import torch

    return Team(node=node, per_node=max(1, min(cluster.gpu.count, torch.cuda.device_count())))


def launch(context: StageContext, team: Team) -> Metrics:
    """Train in `team.count` processes, of which this node starts its own. Metrics come from the first node alone.

    Raises the error that a process ended with: GpuMemoryError if one of them ran out of memory; TransientError if one
    ended without a word.
    """
    checkpoints = context.checkpoints or LocalCheckpoints(context.scratch / "checkpoints")
    job = _job(context, checkpoints)
    path = context.scratch / "job.json"
    path.write_text(job.model_dump_json())
    if team.node.count > 1:
        wait_for_name(team.node.master, context.stop)
    code = _run(context, _command(team, path), job, checkpoints)
    checkpoints.flush()
    if code:
        raise failure(job.outcomes)
    return _metrics(job.outcomes)


def _job(context: StageContext, checkpoints: Checkpoints) -> Job:
    folders = {name: context.scratch / name for name in ("handed", "outcomes")}
    for folder in folders.values():
        folder.mkdir()
    step, checkpoint = checkpoints.newest() or (0, None)
    return Job(
        spec=context.spec,
        inputs=context.inputs,
        output=context.output,
        scratch=context.scratch,
        stop=context.scratch / "stop",
        rung=context.rung,
        oom_killed=context.oom_killed,
        step=step,
        checkpoint=checkpoint,
        **folders,
    )


def _command(team: Team, job: Path) -> list[str]:
    node = team.node
    if node.count == 1:
        place = ["--standalone", "--local-addr", "127.0.0.1"]
    else:
        place = ["--nnodes", str(node.count), "--node-rank", str(node.index), "--master-addr", node.master,
                 "--master-port", str(node.port), "--rdzv-conf", f"timeout={PEER_SECONDS}"]  # fmt: skip
    return [
        sys.executable, "-m", "halops.train.torchrun", str(os.getpid()), *place, "--nproc-per-node",
        str(team.per_node), "-m", "halops.train.worker", str(job),
    ]  # fmt: skip


def _run(context: StageContext, command: list[str], job: Job, checkpoints: Checkpoints) -> int:
    """Run to the end, handing progress and checkpoints on. Raises what storing a checkpoint raises."""
    environment = os.environ | ({"GLOO_SOCKET_IFNAME": "lo"} if "--standalone" in command else {})
    environment.setdefault("OMP_NUM_THREADS", "1")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stdout
    relay = threading.Thread(target=_relay, args=(process.stdout, context.progress), daemon=True)
    relay.start()
    try:
        while process.poll() is None:
            if context.stop.is_set():
                job.stop.touch()
            _hand_on(job.handed, checkpoints)
            time.sleep(POLL_SECONDS)
        relay.join()
        _hand_on(job.handed, checkpoints)
    finally:
        _end(process)
    return process.returncode


def _relay(stream: IO[str], progress: Progress) -> None:
    """Tell the first process's events as our own; print the rest."""
    for line in stream:
        try:
            event = json.loads(line)
            message, metrics = event["message"], event.get("metrics", {})
            amount = {name: event[name] for name in ("done", "total", "unit") if name in event}
        except (ValueError, TypeError, KeyError):
            print(line, end="", flush=True)
        else:
            progress(message, **amount, **metrics)


def _hand_on(folder: Path, checkpoints: Checkpoints) -> None:
    """Store the newest of the checkpoints that are there; older ones have been overtaken."""
    found = sorted(folder.iterdir(), key=lambda path: int(path.name.partition("-")[0]))
    for path in found[:-1]:
        shutil.rmtree(path)
    for path in found[-1:]:
        checkpoints.save(int(path.name.partition("-")[0]), path)
        shutil.rmtree(path, ignore_errors=True)


def _end(process: subprocess.Popen[str]) -> None:
    """Have torchrun end its processes; what is left dies with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_name(host: str, stop: threading.Event, seconds: float = PEER_SECONDS) -> None:
    """Wait until the first node's name resolves: its pod may come later. Raises TransientError, Interrupted."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TransientError(
                    "the first node's name doesn't resolve",
                    where=f"{host}: {error}",
                    remedy="is its pod scheduled, and the headless Service there?",
                ) from error
        if stop.wait(1.0):
            raise Interrupted("stopped while waiting for the first node", remedy="the same command goes on from here")


def failure(outcomes: Path) -> HalopsError:
    """The error that tells most: out of memory first, then one that won't pass by itself, then what interrupts."""
    found = [_from_json(json.loads(path.read_text())) for path in sorted(outcomes.glob("[0-9]*.json"))]
    if not found:
        return TransientError(
            "a training process ended without a word: killed, or by a fault of its own",
            where="its last lines are above, in this log",
            remedy="the next attempt goes on from the last checkpoint",
        )
    return min(found, key=_weight)


def _weight(error: HalopsError) -> int:
    if isinstance(error, GpuMemoryError):
        return 0
    if isinstance(error, Interrupted):
        return 2
    return 3 if isinstance(error, TransientError) else 1


def _from_json(parts: dict[str, Any]) -> HalopsError:
    kind: type[HalopsError] = getattr(errors, parts["kind"], StageError)
    more = (parts["problems"],) if "problems" in parts else ()
    return kind(parts["what"], *more, where=parts["where"], remedy=parts["remedy"])


def _metrics(outcomes: Path) -> Metrics:
    path = outcomes / "metrics.json"
    metrics: Metrics = json.loads(path.read_text()) if path.exists() else {}
    return metrics

"""Whatever is killed, the same command afterwards finishes the job from what was saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from halops.backends.lock import is_held
from tests.e2e.conftest import Shell, new_shell

pytestmark = pytest.mark.slow


def wait_for(shell: Shell, condition, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Poll until `condition()`, while the process lives."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


def manifests(shell: Shell, stage: str) -> list[Path]:
    return list((shell.folder / ".halops" / "runs").glob(f"*/{stage}/manifest.json"))


def checkpoints(shell: Shell) -> list[Path]:
    return list((shell.folder / ".halops" / "runs").glob("*/train/checkpoints/*/manifest.json"))


def stage_pid(shell: Shell) -> int | None:
    """The pid of the stage process that works now, from the process table."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"halops.stages.harness" in words and any(str(shell.folder).encode() in word for word in words):
            return int(entry.parent.name)
    return None


def train_of(shell: Shell) -> Any:
    """The training, as `status` tells of it."""
    return next(stage for stage in shell.json("status")["stages"] if stage["name"] == "train")


def test_the_cli_is_killed_in_training_and_the_same_command_finishes(
    shell: Shell, tiny: list[str], tmp_path_factory: pytest.TempPathFactory, sample: Path
):
    process = shell.start(*tiny, "--wait")
    wait_for(shell, lambda: checkpoints(shell), process)
    process.kill()
    process.wait()
    time.sleep(0.5)
    assert stage_pid(shell) is None, "the stage outlived its chain"
    assert shell.json("status")["state"] == "failed"
    assert "resume" in train_of(shell)["diagnosis"]
    again = shell.run(*tiny, "--wait")
    assert again.stderr.count("done before") == 2
    assert train_of(shell)["metrics"]["resumed_from_step"] >= 3
    # The interrupted run ends with the very files of one that was left alone.
    alone = new_shell(tmp_path_factory.mktemp("alone"), sample)
    alone.run(*tiny, "--wait")
    ours, theirs = ({row["path"]: row["sha256"] for row in each.json("artifacts")} for each in (shell, alone))
    for name in ("adapter/adapter_model.safetensors", "model.safetensors", "halops-q4_k_m.gguf"):
        assert ours[name] == theirs[name], name


def test_a_killed_stage_is_tried_again(shell: Shell, tiny: list[str]):
    process = shell.start(*tiny, "--wait", "--set=training.max_steps=3")
    wait_for(shell, lambda: manifests(shell, "train") and stage_pid(shell), process)
    os.kill(stage_pid(shell), signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "trying again" in err


def test_a_second_submit_of_a_run_says_so_and_the_first_goes_on(shell: Shell, tiny: list[str]):
    first = shell.start(*tiny, "--wait")
    wait_for(shell, lambda: stage_pid(shell), first)
    second = shell.run(*tiny, "--wait", code=4)
    assert "works on this run already" in second.stderr
    assert str(first.pid) in second.stderr
    assert shell.json("status")["state"] == "running"
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=300)
    assert first.returncode == 75


def test_cancel_saves_a_checkpoint_and_resume_goes_on(shell: Shell, tiny: list[str]):
    run_id = shell.run(*tiny, "--set=training.max_steps=40").stdout.strip()
    lock = shell.folder / ".halops" / "local" / run_id / "lock"
    assert is_held(lock)
    until = time.monotonic() + 300
    while not checkpoints(shell):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "cancelled" in shell.run("cancel", run_id).stdout
    assert not is_held(lock)
    assert stage_pid(shell) is None
    assert shell.json("status", run_id)["state"] == "cancelled"
    saved = max(int(path.parent.name) for path in checkpoints(shell))
    process = shell.start("resume", run_id, "--wait")
    wait_for(shell, lambda: manifests(shell, "train"), process)
    assert train_of(shell)["metrics"]["resumed_from_step"] == saved
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    shell.run("delete", run_id, "--yes")
    assert shell.json("runs") == []


def test_a_damaged_upstream_file_is_refused_and_named(shell: Shell, tiny: list[str]):
    process = shell.start(*tiny, "--wait")
    wait_for(shell, lambda: manifests(shell, "data"), process)
    process.kill()
    process.wait()
    manifest = json.loads(manifests(shell, "data")[0].read_bytes())
    entry = next(file for file in manifest["files"] if file["path"] == "train.jsonl")
    path = shell.folder / ".halops" / entry["key"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    refused = shell.run(*tiny, "--wait", code=43)
    assert "train.jsonl" in refused.stderr
    assert not manifests(shell, "train")

"""kill -9 at random moments, many times over: the same command at last ends with the files of a run left alone.

HALOPS_SOAK_KILLS (20) counts kills that hit a run at work; HALOPS_SOAK_SEED (1) chooses the moments. Half of them hit
command, the other half the stage's own process. A run that comes to its end is compared, deleted and begun again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import Shell, new_shell, sample, tiny
from tests.e2e.test_faults import stage_pid

__all__ = ["sample", "tiny"]

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("HALOPS_SOAK_KILLS") or 20)
SEED = int(os.environ.get("HALOPS_SOAK_SEED") or 1)
HARNESS = b"halops.stages.harness"  # its next word is the stage
LONGEST_WAIT = 40.0  # seconds before a kill: twice what training takes, so that later stages are hit as well


def digests(shell: Shell) -> dict[str, str]:
    """What must not depend on how often the run was killed: adapter, merged model, GGUF files."""
    kinds = (".gguf", "model.safetensors")
    return {row["path"]: row["sha256"] for row in shell.json("artifacts") if row["path"].endswith(kinds)}


def manifests(shell: Shell) -> dict[str, bytes]:
    """What is committed, by stage."""
    return {path.parent.name: path.read_bytes() for path in (shell.folder / ".halops/runs").glob("*/*/manifest.json")}


def killed_in(shell: Shell, process: subprocess.Popen[str], hit_stage: bool) -> str:
    """kill -9 of the command, and of its stage first if asked; where it struck."""
    victim = stage_pid(shell)
    words = Path(f"/proc/{victim}/cmdline").read_bytes().split(b"\0") if victim else []
    place = words.index(HARNESS) + 1 if HARNESS in words else 0
    if hit_stage and victim:
        os.kill(victim, signal.SIGKILL)
    process.kill()
    process.communicate()
    return words[place].decode() if place else "between stages"


def test_kills_at_random_moments_lose_nothing(tmp_path: Path, sample: Path, tiny: list[str]) -> None:
    words = (*tiny, "--wait")
    alone, killed = (new_shell(tmp_path / name, sample) for name in ("alone", "killed"))
    alone.run(*words)
    expected, dice, struck, rounds = digests(alone), random.Random(SEED), Counter[str](), 0
    while struck.total() < KILLS or manifests(killed):
        before = manifests(killed)
        process = killed.start(*words)
        try:
            _, said = process.communicate(timeout=None if struck.total() == KILLS else dice.uniform(0.2, LONGEST_WAIT))
        except subprocess.TimeoutExpired:
            struck[killed_in(killed, process, hit_stage=dice.random() < 0.5)] += 1
            assert manifests(killed).items() >= before.items()
            continue
        assert process.returncode == 0, said
        killed.run("artifacts", "--check")
        assert digests(killed) == expected
        rounds += 1
        killed.run("delete", "tiny", "--yes")
    print(f"seed {SEED}: {KILLS} kills in {rounds} runs, {dict(struck)}; lost: nothing")

"""kill -9 at random moments, many times over: the same command at last ends with the files of a run left alone.

make soak                       # 20 kills
HALOPS_SOAK_KILLS=300 make soak
"""

from __future__ import annotations

import os
import random
import signal
import time

from tests.e2e.conftest import Shell, new_shell, quick_submit, sample
from tests.e2e.test_faults import stage_pid

__all__ = ["sample"]

KILLS = int(os.environ.get("HALOPS_SOAK_KILLS") or 20)
SEED = int(os.environ.get("HALOPS_SOAK_SEED") or 1)
LONGEST_WAIT = 25.0  # seconds before a kill; a whole quick run takes about a minute


def digests(shell: Shell) -> dict[str, str]:
    """What must not depend on how often the run was killed: adapter, merged model, GGUF files."""
    kinds = (".gguf", "model.safetensors")
    return {row["path"]: row["sha256"] for row in shell.json("artifacts") if row["path"].endswith(kinds)}


def test_kills_at_random_moments_lose_nothing(tmp_path, sample) -> None:
    alone, killed = (new_shell(tmp_path / name, sample) for name in ("alone", "killed"))
    alone.run(*quick_submit("--wait"))
    dice = random.Random(SEED)
    for kill in range(KILLS):
        process = killed.start(*quick_submit("--wait"))
        time.sleep(dice.uniform(0.2, LONGEST_WAIT))
        victim = stage_pid(killed) if dice.random() < 0.5 else process.pid
        if victim:
            os.kill(victim, signal.SIGKILL)
        process.kill()
        process.communicate()
        print(f"kill {kill + 1} of {KILLS} (seed {SEED}): {killed.json('status')['state']}")
        time.sleep(0.2)
    killed.run(*quick_submit("--wait"))
    killed.run("artifacts", "--check")
    assert digests(killed) == digests(alone)

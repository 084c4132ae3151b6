"""A folder like a newcomer's, and the `halops` command as a real process in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.tiny_model import make as make_model

ROOT = Path(__file__).resolve().parents[2]
# Four steps teach no model where to stop, so that gate is opened.
QUICK = (
    "training.max_steps=4", "training.save_steps=2", "training.per_device_train_batch_size=2",
    "verify.answers=2", "verify.parity_chats=8", "verify.max_stop_failures=2",
)  # fmt: skip


@dataclass(frozen=True)
class Shell:
    """Runs `halops` in one folder."""

    folder: Path

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "halops", *argv],
            cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            **options,
        )  # fmt: skip

    def run(self, *argv: str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end, expecting an exit code; never a traceback."""
        process = self.start(*argv, **options)
        out, err = process.communicate(timeout=900)
        assert process.returncode == code, f"{argv}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def json(self, *argv: str) -> Any:
        """The command's JSON."""
        return json.loads(self.run(*argv, "--json").stdout)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows of the shipped sample, with a few probes."""
    folder = tmp_path_factory.mktemp("sample")
    for name, count in (("train.jsonl", 60), ("probes.jsonl", 4)):
        lines = (ROOT / "data" / "final" / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:count]))
    return folder


def new_shell(folder: Path, sample: Path) -> Shell:
    """A folder with data/final in it."""
    target = folder / "data" / "final"
    target.mkdir(parents=True)
    for path in sample.iterdir():
        shutil.copy(path, target)
    return Shell(folder)


@pytest.fixture
def shell(tmp_path: Path, sample: Path) -> Shell:
    """A fresh folder."""
    return new_shell(tmp_path, sample)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The first arguments of a run of the cluster tests' tiny profile, here on this machine: half a minute."""
    uri = make_model(tmp_path_factory.mktemp("tiny") / "model").as_uri()
    return ["submit", f"--profile={ROOT / 'tests/cluster/tiny.yaml'}", "--backend=local", f"--set=model.uri={uri}"]


def quick_submit(*more: str) -> list[str]:
    """The arguments of a run that takes a minute instead of five."""
    sets = [word for setting in QUICK for word in ("--set", setting)]
    return ["submit", "--profile", "local", *sets, *more]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Shell:
    """A folder in which one quick run has been done, start to end. Not to be changed."""
    shell = new_shell(tmp_path_factory.mktemp("finished"), sample)
    shell.run(*quick_submit("--wait"), env=os.environ | {"COLUMNS": "120"})
    return shell

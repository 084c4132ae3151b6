"""Each thing that a user can get wrong: a sentence, a place, a remedy, an exit code, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import Shell

HEAVY = ("torch", "transformers", "kubernetes", "boto3", "numpy", "pydantic", "rich")


def test_help_is_light():
    code = f"""
import sys
from halops.cli.main import cli
try:
    cli(["--help"])
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "submit" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["submit", "--profile", "nothere"], 3, ["nothere", "a100"]),
        (["submit", "--profile", "bad.yaml"], 42, ["bad.yaml", "line 1"]),
        (["submit", "--profile", "wrong.yaml"], 42, ["training.learning_rate", "training.epocs", "lora.r"]),
        (["submit", "--set", "training.lr=fast"], 42, ["training.learning_rate"]),
        (["submit", "--data", "nothere.jsonl"], 3, ["nothere.jsonl", "remedy"]),
        (["submit", "--data", "ftp://host/x.jsonl"], 42, ["ftp"]),
        (["submit", "--name", "Not_A_Label"], 42, ["Not_A_Label"]),
        (["submit", "--set", "model.uri=file:///nothere"], 3, ["/nothere"]),
        (["submit", "--set", "model.uri=ftp://x"], 42, ["ftp"]),
        (["submit", "--store", "s3://bucket/x", "--wait"], 75, ["127.0.0.1:9"]),
        (["submit", "--profile", "rtx8"], 42, ["--backend local"]),
        (["submit", "--nothing"], 2, ["--nothing"]),
        (["nothing"], 2, ["nothing"]),
        (["status"], 3, ["no runs", "submit"]),
        (["status", "nothere"], 3, ["no runs"]),
        (["logs", "x", "nostage"], 2, ["nostage", "train"]),
        (["data", "check", "nothere.jsonl"], 3, ["nothere.jsonl"]),
        (["data", "check", "broken.jsonl"], 42, ["broken.jsonl", "2"]),
        (["data", "check", "data/final/train.jsonl", "--expected", "7"], 42, ["7"]),
        (["serve", "--model", "nothere.gguf"], 3, ["nothere.gguf"]),
        (["chat", "-m", "x"], 3, ["no runs"]),
        (["chat", "http://127.0.0.1:9", "-m", "x"], 75, ["127.0.0.1:9"]),
        (["merge", "--base", "x"], 2, ["--adapter"]),
        (["merge", "--base", "nothere", "--adapter", "nothere"], 3, ["nothere"]),
        (["train", "--config", "nothere.yaml"], 3, ["nothere.yaml"]),
        (["plan", "--profile", "wrong.yaml"], 42, ["lora.r"]),
    ],
)
def test_bad_input(shell: Shell, argv: list[str], code: int, words: list[str]):
    (shell.folder / "bad.yaml").write_text("training: {a: [")
    (shell.folder / "wrong.yaml").write_text("training: {learning_rate: fast, epocs: 1}\nlora: {r: -2}\n")
    (shell.folder / "broken.jsonl").write_text('{"messages": []}\n{"messages": [\n')
    environment = os.environ | {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip
    done = shell.run(*argv, code=code, env=environment)
    for word in words:
        assert word in done.stderr + done.stdout, done.stderr
    assert code == 2 or "error: " in done.stderr


def test_a_dry_run_prints_the_resolved_run_and_changes_nothing(shell: Shell):
    before = sorted(path for path in shell.folder.rglob("*"))
    for profile in ("local", "rtx8", "a100"):
        document = shell.json("submit", "--profile", profile, "--dry-run")
        assert document["run_id"].startswith(profile)
        assert [step["stage"] for step in document["steps"]] == ["base", "data", "train", "merge", "convert", "verify"]
    assert sorted(path for path in shell.folder.rglob("*")) == before


def test_init_writes_the_site_once(shell: Shell):
    shell.run("init", "--store", "./elsewhere")
    before = (shell.folder / "halops.yaml").read_text()
    shell.run("init", code=42)
    assert (shell.folder / "halops.yaml").read_text() == before
    assert shell.json("submit", "--dry-run")["store"].endswith("/elsewhere")
    (shell.folder / "halops.yaml").write_text("store: s4://x\nnamespce: y\n")
    assert "halops.yaml" in shell.run("runs", code=42).stderr


def test_plan_needs_no_hub(shell: Shell):
    stages = shell.json("plan", "--profile", "rtx8")["stages"]
    assert {"train", "merge", "convert", "serving"} <= {stage["stage"] for stage in stages}
    assert len(shell.json("plan", "--profile", "a100", "--compare")) == 5

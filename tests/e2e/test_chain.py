"""The whole job as a user runs it: real model, real training, real llama.cpp, from rows to an answer."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import httpx
import pytest

from halops.artifact import sha256_file
from halops.metrics import METRICS
from halops.names import STAGES
from tests.e2e.conftest import Shell, quick_submit

pytestmark = pytest.mark.slow
FILES = {"halops-f16.gguf", "halops-q4_k_m.gguf", "halops-q5_k_m.gguf", "halops-adapter-f16.gguf"}


def test_every_stage_is_done_and_told_with_times_and_known_metrics(finished: Shell):
    status = finished.json("status")
    assert status["state"] == "succeeded"
    assert [stage["name"] for stage in status["stages"]] == list(STAGES)
    for stage in status["stages"]:
        assert set(stage) == {"name", "state", "started", "finished", "seconds", "metrics", "diagnosis"}
        assert stage["state"] == "succeeded"
        assert stage["started"] < stage["finished"]
        assert set(stage["metrics"]) <= set(METRICS)


def test_training_lowered_the_held_out_loss(finished: Shell):
    metrics = {stage["name"]: stage["metrics"] for stage in finished.json("status")["stages"]}
    assert metrics["train"]["step"] == 4
    assert metrics["train"]["heldout_loss"] < metrics["train"]["heldout_loss_base"]
    assert metrics["verify"]["parity_mismatches"] == 0
    assert metrics["verify"]["merge_failures"] == 0
    assert metrics["verify"]["probes"] == 4


def test_every_file_is_listed_with_the_digest_of_its_bytes(finished: Shell):
    rows = finished.json("artifacts")
    assert {Path(row["path"]).name for row in rows if row["stage"] == "convert"} >= FILES
    for row in rows:
        path = Path(row["uri"].removeprefix("file://"))
        assert (path.stat().st_size, sha256_file(path)) == (row["size"], row["sha256"])
    finished.run("artifacts", "--check")


def test_the_same_command_again_finds_everything_done(finished: Shell):
    before = {row["uri"]: row["sha256"] for row in finished.json("artifacts")}
    began = time.monotonic()
    again = finished.run(*quick_submit("--wait"))
    assert again.stderr.count("done before") == len(STAGES)
    assert time.monotonic() - began < 60
    assert {row["uri"]: row["sha256"] for row in finished.json("artifacts")} == before


def test_the_summary_is_one_screen(finished: Shell):
    text = finished.run("report", "--text").stdout
    assert len(text.splitlines()) <= 60
    for words in ("held-out loss", "probes", "halops-q4_k_m.gguf", "halops chat"):
        assert words in text.lower(), text


def test_the_report_is_one_page(finished: Shell, tmp_path: Path):
    finished.run("report", "-o", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "<svg" in page


def test_the_lineage_goes_from_the_gguf_to_the_rows(finished: Shell):
    rows = finished.json("trace")
    dataset = sha256_file(finished.folder / "data" / "final" / "train.jsonl")
    digests = {row["digest"] for row in rows}
    assert dataset in digests
    assert {row["sha256"] for row in finished.json("artifacts") if row["path"].endswith(".gguf")} <= digests


def test_chat_answers_from_the_tuned_and_from_the_base(finished: Shell):
    answer = finished.run("chat", "-m", "Which runbook is for the firewall?", "--max-tokens", "24").stdout
    assert answer.strip()
    both = finished.run("chat", "-m", "Which runbook?", "--max-tokens", "8", "--compare", "base").stdout
    assert both.startswith("base: ")
    assert "tuned: " in both


def test_serve_answers_as_an_openai_endpoint_and_a_second_one_is_told_that_the_port_is_taken(finished: Shell):
    from halops.llamacpp.ports import free_port

    port = str(free_port())
    server = finished.start("serve", "--port", port)
    try:
        url = server.stdout.readline().strip()
        assert url.endswith(f":{port}/v1"), server.stderr.read()
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=120, trust_env=False)
        # What a model says after four steps is anybody's guess, so look at the form alone.
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"
        assert answer.json()["usage"]["completion_tokens"] >= 1
        assert port in finished.run("serve", "--port", port, code=4).stderr
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert server.returncode == 0


def test_single_stages_by_hand_give_the_same_bytes(finished: Shell, tmp_path: Path):
    digests = {row["path"]: row["sha256"] for row in finished.json("artifacts")}
    finished.run("merge", "-o", str(tmp_path / "merged"))
    assert sha256_file(tmp_path / "merged" / "model.safetensors") == digests["model.safetensors"]
    finished.run("convert", "--model", str(tmp_path / "merged"), "--type", "q4_k_m", "-o", str(tmp_path / "gguf"))
    assert sha256_file(tmp_path / "gguf" / "halops-q4_k_m.gguf") == digests["halops-q4_k_m.gguf"]


def test_logs_are_readable(finished: Shell):
    text = finished.run("logs", "train").stdout
    assert "4/4" in text
    assert json.loads(finished.run("logs", "train", "--raw").stdout.splitlines()[0])["message"]


def test_without_a_local_log_the_store_s_is_shown(finished: Shell):
    run_id = finished.json("status")["run_id"]
    path = finished.folder / ".halops" / "local" / run_id / "train.log"
    aside = path.rename(path.with_suffix(".aside"))
    try:
        shown = finished.run("logs", "train")
        assert "4/4" in shown.stdout
        assert "the store keeps" in shown.stderr
    finally:
        aside.rename(path)


def test_tensorboard_events_are_there(finished: Shell, tmp_path: Path):
    finished.run("tensorboard", "--export", str(tmp_path / "events"))
    assert list((tmp_path / "events").rglob("events.out.tfevents.*"))

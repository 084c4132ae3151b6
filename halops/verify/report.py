"""The verify stage's findings: gates with their failures, and the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halops.chat import Answer
from halops.errors import VerificationError
from halops.stages.context import Metrics
from halops.verify.parity import Mismatch
from halops.verify.probing import tokens_per_second
from halops.verify.stops import Question

if TYPE_CHECKING:
    from halops.probes import Probe

REMEDIES = {
    "files": "convert again from the merged model; edit no GGUF by hand",
    "merge": "merge again; if it fails again, the adapter and the base don't belong together",
    "parity": "serve through the template that was trained with: look at serving.chat_template",
    "stops": "train longer, or allow for some with verify.max_stop_failures",
}
SHOWN = 5


@dataclass
class Gate:
    """One check: how many things were looked at, and a line for each that failed. `allowed` may fail."""

    name: str
    checked: int = 0
    failures: list[str] = field(default_factory=list)
    allowed: int = 0

    @property
    def passed(self) -> bool:
        """Something was checked, and no more failed than may."""
        return self.checked > 0 and len(self.failures) <= self.allowed

    def to_json(self) -> dict[str, Any]:
        """For verify.json."""
        return {"passed": self.passed, "checked": self.checked, "failures": self.failures, "allowed": self.allowed}


def require(gates: Iterable[Gate]) -> None:
    """Raises VerificationError with what each failed gate found, and its remedy."""
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return
    lines = [f"verification failed: {', '.join(gate.name for gate in failed)}"]
    for gate in failed:
        lines += [f"  - {gate.name}: {line}" for line in gate.failures[:SHOWN]]
        more = len(gate.failures) - SHOWN
        lines += [f"  - {gate.name}: and {more} more"] if more > 0 else []
        lines += [f"  - {gate.name}: nothing could be checked"] if not gate.checked else []
    raise VerificationError("\n".join(lines), remedy="; ".join(REMEDIES[gate.name] for gate in failed))


@dataclass(frozen=True)
class Answers:
    """What one model said: to the held-out questions, and to the probes."""

    questions: list[Answer]
    probes: list[Answer]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON object, for people to read too."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def answer_rows(questions: Sequence[Question], tuned: Answers, base: Answers | None) -> Iterator[dict[str, Any]]:
    """For answers.jsonl: each held-out question with both answers."""
    for index, question in enumerate(questions):
        yield {
            "id": question.chat.id, "question": question.text, "expected": question.turn.answer["content"],
            "base": base.questions[index].text if base else None, "tuned": tuned.questions[index].text,
        }  # fmt: skip


def probe_rows(probes: Sequence[Probe], tuned: Answers, base: Answers | None) -> Iterator[dict[str, Any]]:
    """For probes.jsonl: each probe with both answers, and whether they are right."""
    from halops.probes import judge

    for index, probe in enumerate(probes):
        ours = tuned.probes[index].text
        theirs = base.probes[index].text if base else None
        yield {
            "id": probe.id, "domain": probe.domain, "question": probe.question,
            "expect": probe.expect.model_dump(mode="json"), "base": theirs, "tuned": ours,
            "base_ok": None if theirs is None else judge(theirs, probe.expect).passed,
            "tuned_ok": judge(ours, probe.expect).passed,
        }  # fmt: skip


def figures(
    gates: list[Gate], mismatches: list[Mismatch], rows: list[dict[str, Any]], with_base: bool, tuned: Answers
) -> Metrics:
    """The stage's metrics, by the keys of `halops.metrics`."""
    by_name = {gate.name: gate for gate in gates}
    metrics: Metrics = {
        "parity_chats": by_name["parity"].checked,
        "parity_mismatches": len(mismatches),
        "stop_answers": by_name["stops"].checked,
        "stop_failures": len(by_name["stops"].failures),
        "merge_tensors_checked": by_name["merge"].checked,
        "merge_failures": len(by_name["merge"].failures),
        "answer_tokens_per_second": tokens_per_second(tuned.probes or tuned.questions),
    }
    if rows:
        metrics |= {"probes": len(rows), "probe_score": sum(row["tuned_ok"] for row in rows) / len(rows)}
        if with_base:
            metrics["probe_score_base"] = sum(row["base_ok"] for row in rows) / len(rows)
    return metrics

"""Counts and lengths of a prepared dataset: what stats.json says and the stage's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from halops.data.check import NO_DOMAIN, Report
from halops.data.windows import Fitted

BUCKETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # upper edges of the histogram, tokens


@dataclass
class Side:
    """One side of the split."""

    conversations: int = 0
    rows: int = 0
    total_tokens: int = 0
    trained_tokens: int = 0
    domains: Counter[str] = field(default_factory=Counter)

    def add(self, fitted: Fitted) -> None:
        """Count one conversation and its rows."""
        self.conversations += 1
        self.rows += len(fitted.rows)
        self.domains[fitted.conversation.domain or NO_DOMAIN] += 1
        for row in fitted.rows:
            self.total_tokens += len(row.tokens.input_ids)
            self.trained_tokens += sum(end - start for start, end in row.tokens.trained)


@dataclass
class Statistics:
    """Both sides, and what was done to long conversations. `lengths` are of whole conversations, in tokens."""

    train: Side = field(default_factory=Side)
    heldout: Side = field(default_factory=Side)
    split: int = 0
    truncated: int = 0
    apart: int = 0
    lengths: list[int] = field(default_factory=list)

    def add(self, fitted: Fitted, *, held_out: bool) -> None:
        """Count one conversation."""
        (self.heldout if held_out else self.train).add(fitted)
        self.split += fitted.split
        self.truncated += sum(row.cut for row in fitted.rows)
        self.apart += fitted.apart
        self.lengths.append(fitted.length)

    def metrics(self, report: Report) -> dict[str, int]:
        """The stage's metrics; keys are those of `halops.metrics`."""
        ordered = sorted(self.lengths)
        return {
            "rows": report.rows,
            "train_rows": self.train.rows,
            "heldout_rows": self.heldout.rows,
            "trained_tokens": self.train.trained_tokens,
            "total_tokens": self.train.total_tokens,
            "truncated_rows": self.truncated,
            "split_rows": self.split,
            "duplicate_rows": report.duplicates,
            "length_p50": percentile(ordered, 50),
            "length_p95": percentile(ordered, 95),
            "length_max": ordered[-1],
        }

    def to_json(self, report: Report, **more: Any) -> dict[str, Any]:
        """All there is to say about the dataset."""
        return {
            **self.metrics(report),
            **more,
            "train_conversations": self.train.conversations,
            "heldout_conversations": self.heldout.conversations,
            "heldout_trained_tokens": self.heldout.trained_tokens,
            "rows_for_turns_written_apart": self.apart,
            "lengths": summarise(self.lengths),
            "domains": {
                name: {"train": self.train.domains[name], "heldout": self.heldout.domains[name]}
                for name, _ in report.domains.most_common()
            },
            "messages_by_role": dict(report.roles.most_common()),
            "conversations_by_assistant_turns": {str(turns): count for turns, count in sorted(report.turns.items())},
            "warnings": report.warnings,
        }


def percentile(ordered: Sequence[int], percent: float) -> int:
    """The nearest-rank percentile of sorted numbers: the smallest with at least `percent` % of them at or below it."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def summarise(lengths: Sequence[int]) -> dict[str, Any]:
    """Mean, percentiles and histogram of lengths in tokens; empty if there are none."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    counts = Counter(next((edge for edge in BUCKETS if length <= edge), 0) for length in ordered)
    return {
        "mean": round(sum(ordered) / len(ordered), 1),
        **{f"p{percent}": percentile(ordered, percent) for percent in (5, 50, 90, 95, 99)},
        "max": ordered[-1],
        "histogram": [
            {"up_to": edge or None, "rows": counts[edge]} for edge in (*BUCKETS, 0) if counts[edge]
        ],
    }  # fmt: skip

"""halops data"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import json_option, print_json

if TYPE_CHECKING:
    from halops.data.check import Report


@click.group()
def command() -> None:
    """Look at a dataset.

    \b
      halops data check data/final/train.jsonl
    """


@command.command()
@click.argument("file", default="data/final/train.jsonl")
@click.option("--expected", type=click.IntRange(min=1), metavar="N", help="Fail unless there are N conversations.")
@click.option("--tokenizer", metavar="FOLDER", type=click.Path(path_type=Path), help="Measure lengths in its tokens.")
@json_option
def check(file: str, expected: int | None, tokenizer: Path | None, as_json: bool) -> None:
    """Check FILE: all problems by line, counts, domains, lengths.

    \b
      halops data check data/final/train.jsonl --expected 440
    """
    from halops.data.check import check as check_rows

    report = check_rows(Path(file), expected=expected, tokenizer=tokenizer)
    print_json(summary(report)) if as_json else click.echo(as_text(report))
    report.raise_for_problems()


def summary(report: Report) -> dict[str, Any]:
    """The report for `--json`."""
    return {
        "rows": report.rows,
        "duplicates": report.duplicates,
        "domains": dict(sorted(report.domains.items())),
        "turns": {str(turns): count for turns, count in sorted(report.turns.items())},
        "lengths": percentiles(report.lengths),
        "problems": report.problems,
        "warnings": report.warnings,
    }


def as_text(report: Report) -> str:
    """The report for people."""
    lines = [f"{report.rows} conversations, {report.duplicates} of them repeat another"]
    if report.domains:
        lines.append("domains: " + ", ".join(f"{name} {count}" for name, count in sorted(report.domains.items())))
    turns = sum(count for number, count in report.turns.items() if number > 1)
    lines.append(f"{turns} with several turns")
    if report.lengths:
        lines.append("tokens: " + ", ".join(f"{name} {value}" for name, value in percentiles(report.lengths).items()))
    lines += [f"warning: {text}" for text in report.warnings]
    return "\n".join(lines)


def percentiles(lengths: list[int]) -> dict[str, int]:
    """Median, 95th percentile and maximum, in tokens; empty without lengths."""
    ordered = sorted(lengths)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in at.items()} if ordered else {}

"""halops data"""

from __future__ import annotations

from pathlib import Path

import click

from halops.cli.common import json_option, print_json


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
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())
    if report.problems:
        from halops.errors import DataError

        raise DataError(f"{len(report.problems)} problems in {file}", remedy="mend the lines above")

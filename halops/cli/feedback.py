"""halops feedback"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from halops.cli.common import json_option, note, print_json

if TYPE_CHECKING:
    from halops.feedback.export import Exported


@click.group()
def command() -> None:
    """Rated and corrected chats, as rows to train on.

    \b
      halops feedback export -o data/feedback.jsonl
    """


@command.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File of rows.  [default: standard output]")
@click.option("--since", default="", metavar="DAY", help="Leave out what was rated before, as 2026-11-01.")
@click.option("--force", is_flag=True, help="Replace the output file.")
@json_option
def export(files: tuple[Path, ...], output: Path | None, since: str, force: bool, as_json: bool) -> None:
    """Write the conversations that people rated good, or corrected, and agreed to have trained on.

    FILES are JSON lines as docs/feedback.md describes them; without any, those that `halops chat` kept.

    \b
      halops feedback export -o data/feedback.jsonl
      halops data check data/feedback.jsonl
      cat data/final/train.jsonl data/feedback.jsonl > data/more.jsonl ; halops submit --data data/more.jsonl
    """
    from halops.errors import ConfigError
    from halops.feedback.export import read_records, to_lines, to_rows
    from halops.site import replace_file

    if output and output.exists() and not force:
        raise ConfigError("the file is there already", where=str(output), remedy="--force replaces it")
    found = to_rows(read_records(files or kept_files(), since))
    if output:
        replace_file(output, to_lines(found.rows))
    elif not as_json:
        click.echo(to_lines(found.rows), nl=False)
    if as_json:
        print_json({"rows": len(found.rows), "corrected": found.corrected, "left_out": dict(found.left_out)})
    else:
        note(as_text(found))


def kept_files() -> list[Path]:
    """What `halops chat` kept. Raises NotFoundError if that is nothing."""
    from halops.errors import NotFoundError
    from halops.site import find_site

    site, folder = find_site(Path.cwd())
    kept = folder / site.feedback.folder
    found = sorted(kept.glob("*.jsonl"))
    if not found:
        remedy = "feedback.log in halops.yaml says whether `halops chat` keeps ratings; or name files"
        raise NotFoundError("no feedback was kept", where=str(kept), remedy=remedy)
    return found


def as_text(found: Exported) -> str:
    """Counts for people."""
    rows = len(found.rows)
    said = f"{rows} row{'' if rows == 1 else 's'}, {found.corrected} of them corrected"
    left = ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common())
    return f"{said}; left out: {left}" if left else said

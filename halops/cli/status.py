"""halops status"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import json_option, open_place, print_json, store_option

if TYPE_CHECKING:
    from halops.runstate import RunStatus

MARKS = {"succeeded": "✓", "running": "▸", "failed": "✗", "cancelled": "-", "pending": "·"}


@click.command()
@click.argument("run", required=False)
@click.option(
    "-w", "--watch", is_flag=True,
    help="Follow it until it ends; anew at each change where it isn't a terminal, and with --json as a line.",
)  # fmt: skip
@json_option
@store_option
def command(run: str | None, watch: bool, as_json: bool, store: str | None) -> None:
    """Show where a run stands, and why when it doesn't move. Without RUN: the last one.

    \b
      halops status -w
      halops status local-1f2e3d4c5b --json
      halops status -w --json | jq .state
    """
    from halops.backends.follow import looks
    from halops.runstate import find_run, load_spec

    where = open_place(store)
    spec = load_spec(where.store, find_run(where.store, run))
    backend = where.backend(spec)

    def read() -> RunStatus:
        return backend.status(spec)

    if watch and as_json:
        print_changes(looks(read))
    elif watch:
        watch_changes(looks(read))
    elif as_json:
        print_json(_as_json(read()))
    else:
        click.echo(as_text(read()))


def print_changes(statuses: Iterator[RunStatus]) -> None:
    """A line of JSON for each status that says something new."""
    for status in changes(statuses):
        print_json(_as_json(status), indent=None)


def changes(statuses: Iterator[RunStatus]) -> Iterator[RunStatus]:
    """Those that say something new; that a stage has run for longer isn't."""
    last: Any = None
    for status in statuses:
        news = status.model_dump(exclude={"stages": {"__all__": {"progress", "seconds"}}})
        if news != last:
            yield status
            last = news


def as_text(status: RunStatus) -> str:
    """The status as a person reads it."""
    from halops.cli.live import describe_progress
    from halops.units import human_seconds

    lines = [f"{status.run_id}  {status.state}"]
    for stage in status.stages:
        seconds = human_seconds(stage.seconds) if stage.seconds is not None else ""
        detail = describe_progress(stage.progress) if stage.progress else ""
        lines.append(f"  {MARKS[stage.state]} {stage.name:<8} {stage.state:<10} {seconds:<12} {detail}".rstrip())
        if stage.diagnosis:
            lines += [f"      {line}" for line in stage.diagnosis.splitlines()]
    return "\n".join(lines)


def _as_json(status: RunStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", exclude={"stages": {"__all__": {"progress"}}})


def watch_changes(statuses: Iterator[RunStatus]) -> None:
    """In place on a terminal; elsewhere, such as in a pipeline's log, the whole again at each change."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        for status in changes(statuses):
            click.echo(as_text(status))
        return
    # As Text: what stands in brackets in a diagnosis isn't rich's markup.
    with Live(Text(as_text(next(statuses))), console=console, refresh_per_second=4) as live:
        for status in statuses:
            live.update(Text(as_text(status)))

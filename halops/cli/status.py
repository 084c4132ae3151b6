"""halops status"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from halops.cli.common import Place, json_option, open_place, print_json, store_option

if TYPE_CHECKING:
    from halops.runstate import RunStatus

MARKS = {"succeeded": "✓", "running": "▸", "failed": "✗", "cancelled": "-", "pending": "·"}
WATCH_SECONDS = 2.0


@click.command()
@click.argument("run", required=False)
@click.option("-w", "--watch", is_flag=True, help="Follow it until it ends.")
@json_option
@store_option
def command(run: str | None, watch: bool, as_json: bool, store: str | None) -> None:
    """Show where a run stands, and why when it doesn't move. Without RUN: the last one.

    \b
      halops status -w
      halops status local-1f2e3d4c5b --json
    """
    where = open_place(store)
    status = read_status(where, run)
    if watch:
        _watch(where, status)
    elif as_json:
        print_json(status.model_dump(mode="json", exclude={"stages": {"__all__": {"progress"}}}))
    else:
        click.echo(as_text(status))


def read_status(where: Place, run: str | None) -> RunStatus:
    """The status of a run by id, name, or the last."""
    from halops.runstate import find_run, load_spec

    spec = load_spec(where.store, find_run(where.store, run))
    return where.backend(spec).status(spec)


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


def _watch(where: Place, status: RunStatus) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(as_text(status), console=Console(), refresh_per_second=4) as live:
        while status.state == "running":
            time.sleep(WATCH_SECONDS)
            status = read_status(where, status.run_id)
            live.update(as_text(status))

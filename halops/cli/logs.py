"""halops logs"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from halops.cli.common import Place, open_place, store_option


@click.command()
@click.argument("run", required=False)
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the run ends.")
@click.option("--raw", is_flag=True, help="Print progress events as they are stored, as JSON.")
@store_option
def command(run: str | None, stage: str | None, follow: bool, raw: bool, store: str | None) -> None:
    """Show the log of a run's stage; without STAGE, of the one at work or the last one.

    \b
      halops logs local train -f
    """
    from halops.names import STAGES

    if run in STAGES and stage is None:
        run, stage = None, run
    if stage is not None and stage not in STAGES:
        raise click.BadParameter(f"{stage!r} is no stage; there are: {', '.join(STAGES)}", param_hint="STAGE")
    where = open_place(store)
    run_id, path = _find_log(where, run, stage)
    for line in _lines(where, run_id, path, follow):
        click.echo(line if raw else readable(line))


def _find_log(where: Place, run: str | None, stage: str | None) -> tuple[str, Path]:
    from halops.errors import NotFoundError
    from halops.names import STAGES
    from halops.runstate import find_run

    run_id = find_run(where.store, run)
    backend = where.backend()
    for name in [stage] if stage else reversed(STAGES):
        if path := backend.log(run_id, name):
            return run_id, path
    raise NotFoundError(f"no log of {run_id} {stage or ''}".rstrip(), remedy="the stage hasn't run on this machine")


def readable(line: str) -> str:
    """A progress event as a line for people; anything else as it is."""
    from halops.cli.live import describe_progress

    if line.startswith("{"):
        try:
            event = json.loads(line)
        except ValueError:
            return line
        if isinstance(event, dict) and "message" in event and "time" in event:
            return f"{event['time'][11:19]} {describe_progress(event)}"
    return line


def _lines(where: Place, run_id: str, path: Path, follow: bool) -> Iterator[str]:
    with path.open(errors="replace") as stream:
        while True:
            if line := stream.readline():
                yield line.rstrip("\n")
            elif follow and where.backend().alive(run_id):
                sys.stdout.flush()
                time.sleep(0.3)
            else:
                return

"""halops logs"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click

from halops.cli.common import Place, note, open_place, store_option


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
    from halops.names import LOGGED

    if run in LOGGED and stage is None:
        run, stage = None, run
    if stage is not None and stage not in LOGGED:
        raise click.BadParameter(f"{stage!r} is no stage; there are: {', '.join(LOGGED)}", param_hint="STAGE")
    where = open_place(store)
    for line in _find_log(where, run, stage, follow):
        click.echo(line if raw else readable(line))
        if follow:
            sys.stdout.flush()


def _find_log(where: Place, run: str | None, stage: str | None, follow: bool) -> Iterator[str]:
    """Lines of the stage that was asked for, or of the last that has a log; from the store where no log is left."""
    from halops.errors import NotFoundError
    from halops.livecopies import stored_lines, stored_logs
    from halops.runstate import find_run, load_spec

    run_id = find_run(where.store, run)
    backend = where.backend(load_spec(where.store, run_id))
    logged = backend.logged(run_id)
    if stage in logged or (logged and not stage):
        return backend.logs(run_id, stage or logged[-1], follow=follow)
    kept = stored_logs(where.store, run_id)
    if stage in kept or (kept and not stage):
        note("its log is gone, or elsewhere; these are the progress events that the store keeps")
        return stored_lines(where.store, run_id, stage or kept[-1], follow=follow, alive=lambda: backend.alive(run_id))
    if stage and follow and backend.alive(run_id):
        return backend.logs(run_id, stage, follow=True)
    raise NotFoundError(f"no log of {run_id} {stage or ''}".rstrip(), remedy="the stage hasn't run yet")


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

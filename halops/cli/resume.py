"""halops resume"""

from __future__ import annotations

import click

from halops.cli.common import json_option, note, open_place, store_option


@click.command()
@click.argument("run", required=False)
@click.option("--wait", is_flag=True, help="Stay until the run is done, showing progress.")
@json_option
@store_option
def command(run: str | None, wait: bool, as_json: bool, store: str | None) -> None:
    """Go on with a run that stopped: finished stages are skipped, training goes on from its last checkpoint.

    \b
      halops resume local --wait
    """
    from halops.cli.running import require_local, resume_run, run_in_foreground, start_detached
    from halops.runstate import find_run

    where = open_place(store)
    spec = resume_run(where, find_run(where.store, run))
    require_local(spec)
    if wait:
        run_in_foreground(where, spec, as_json=as_json)
        return
    start_detached(where, spec)
    note(f"{spec.run_id} goes on in the background; follow it with: halops status {spec.run_id} -w")
    click.echo(spec.run_id)

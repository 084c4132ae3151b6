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
    from halops.cli.cluster import render_again
    from halops.cli.running import resume_run, run_in_foreground
    from halops.runstate import find_run

    where = open_place(store)
    spec = resume_run(where, find_run(where.store, run))
    backend = where.backend(spec, lambda spec: render_again(where, spec))
    if wait:
        run_in_foreground(where, spec, backend, as_json=as_json)
        return
    backend.submit(spec)
    note(f"{spec.run_id} goes on in the background; follow it with: halops status {spec.run_id} -w")
    click.echo(spec.run_id)

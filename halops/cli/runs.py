"""halops runs"""

from __future__ import annotations

import click

from halops.cli.common import json_option, open_place, print_json, store_option


@click.command()
@json_option
@store_option
def command(as_json: bool, store: str | None) -> None:
    """List the runs, the newest last.

    \b
      halops runs --json
    """
    from halops.runstate import list_runs, load_spec, run_status

    where = open_place(store)
    backend = where.backend()
    rows = []
    for run_id in list_runs(where.store):
        status = run_status(where.store, load_spec(where.store, run_id), alive=backend.alive(run_id))
        waiting = next((stage.name for stage in status.stages if stage.state != "succeeded"), "")
        rows.append({"run_id": run_id, "state": status.state, "stage": waiting})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['run_id']:<44} {row['state']:<10} {row['stage']}")

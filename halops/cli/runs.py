"""halops runs"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from halops.cli.common import Place, json_option, note, open_place, print_json, store_option

if TYPE_CHECKING:
    from halops.runspec import RunSpec
    from halops.runstate import RunStatus


@click.command()
@json_option
@store_option
def command(as_json: bool, store: str | None) -> None:
    """List the runs, the newest last.

    \b
      halops runs --json
    """
    from halops.runstate import list_runs, load_spec

    where = open_place(store)
    rows = []
    for run_id in list_runs(where.store):
        status = _status(where, load_spec(where.store, run_id))
        waiting = next((stage.name for stage in status.stages if stage.state != "succeeded"), "")
        rows.append({"run_id": run_id, "state": status.state, "stage": waiting})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['run_id']:<44} {row['state']:<10} {row['stage']}")


def _status(where: Place, spec: RunSpec) -> RunStatus:
    """A run's status; what the store alone tells, if its cluster can't be asked."""
    from halops.errors import ConfigError, TransientError
    from halops.runstate import run_status

    try:
        return where.backend(spec).status(spec)
    except (ConfigError, TransientError) as error:
        note(f"{spec.run_id}: {error.what}")
        return run_status(where.store, spec, alive=False)

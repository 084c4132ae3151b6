"""halops delete"""

from __future__ import annotations

import click

from halops.cli.common import open_place, store_option


@click.command()
@click.argument("run")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@store_option
def command(run: str, yes: bool, store: str | None) -> None:
    """Delete a run and its files. The base model and the dataset stay, since other runs share them.

    \b
      halops delete local-1f2e3d4c5b --yes
    """
    from halops.errors import BusyError
    from halops.names import RUNS
    from halops.runstate import find_run, load_spec

    where = open_place(store)
    run_id = find_run(where.store, run)
    backend = where.backend(load_spec(where.store, run_id))
    if backend.alive(run_id):
        raise BusyError(f"{run_id} is at work", remedy=f"halops cancel {run_id}")
    if not yes:
        click.confirm(f"delete {run_id} and all its files in {where.store.uri}?", abort=True)
    backend.forget(run_id)
    where.store.delete(f"{RUNS}/{run_id}")
    click.echo(f"{run_id} deleted")

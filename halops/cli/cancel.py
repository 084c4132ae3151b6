"""halops cancel"""

from __future__ import annotations

import click

from halops.cli.common import open_place, store_option


@click.command()
@click.argument("run", required=False)
@store_option
def command(run: str | None, store: str | None) -> None:
    """Stop a run. Training saves a checkpoint first; `halops resume` goes on from there.

    \b
      halops cancel local
    """
    from halops.artifact import canonical_json, now
    from halops.runstate import cancelled_key, find_run, load_spec

    where = open_place(store)
    run_id = find_run(where.store, run)
    spec = load_spec(where.store, run_id)
    backend = where.backend(spec)
    if backend.status(spec).state == "succeeded":
        click.echo(f"{run_id} is done already; there is nothing to cancel")
        return
    where.store.write(cancelled_key(run_id), canonical_json({"time": now()}))
    stopped = backend.cancel(run_id)
    click.echo(f"{run_id} cancelled" if stopped else f"{run_id} marked as cancelled; nothing was running")

"""halops trace"""

from __future__ import annotations

import click

from halops.cli.common import json_option, open_place, print_json, store_option


@click.command()
@click.argument("run", required=False)
@json_option
@store_option
def command(run: str | None, as_json: bool, store: str | None) -> None:
    """Show what a run's files were made from: GGUF, merged model, adapter, base, rows.

    \b
      halops trace local
    """
    from halops.report.collect import collect
    from halops.runstate import find_run

    where = open_place(store)
    data = collect(where.store, find_run(where.store, run))
    rows = [item.model_dump(mode="json") for item in data.lineage]
    if as_json:
        print_json(rows)
        return
    for item in data.lineage:
        click.echo(f"{item.what:<40} {item.digest[:16]}  {item.source}")

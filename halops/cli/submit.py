"""halops submit"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.common import json_option, note, print_json, profile_options, store_option


@click.command()
@profile_options
@click.option("--data", metavar="FILE|URI", help="JSONL of conversations.  [default: data/final/train.jsonl]")
@click.option("--name", help="Name of the run.  [default: the profile's]")
@click.option("--backend", "place", type=click.Choice(["local", "kube"]), help="Where to run, against the profile.")
@click.option("--new", is_flag=True, help="Start beside an unfinished run of the same name and other inputs.")
@click.option("--wait", is_flag=True, help="Stay until the run is done, showing progress.")
@click.option("--dry-run", is_flag=True, help="Print the resolved run and its steps; change nothing.")
@json_option
@store_option
def command(**options: Any) -> None:
    """Start a run, or go on with it: dataset in, verified GGUF out.

    \b
      halops submit --profile local --wait
      halops submit --profile rtx8 --data ops.jsonl --set training.learning_rate=1e-4 --dry-run
    """
    from halops.cli.running import prepare, require_local, run_in_foreground, start_detached

    prepared = prepare(**{key: options[key] for key in ("profile", "overrides", "data", "name", "place", "store")})
    spec = prepared.spec
    if options["dry_run"]:
        prepared.print_dry_run()
        return
    require_local(spec)
    prepared.store_sources(new=options["new"])
    if options["wait"]:
        run_in_foreground(prepared.where, spec, as_json=options["as_json"])
        return
    start_detached(prepared.where, spec)
    note(f"{spec.run_id} runs in the background; follow it with: halops status {spec.run_id} -w")
    if options["as_json"]:
        print_json({"run_id": spec.run_id})
    else:
        click.echo(spec.run_id)

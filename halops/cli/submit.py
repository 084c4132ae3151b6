"""halops submit"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.cluster import cluster_options
from halops.cli.common import json_option, note, print_json, profile_options, store_option


@click.command()
@profile_options
@click.option("--data", metavar="FILE|URI", help="JSONL of conversations.  [default: data/final/train.jsonl]")
@click.option("--name", help="Name of the run.  [default: the profile's]")
@click.option("--backend", "place", type=click.Choice(["local", "kube"]), help="Where to run, against the profile.")
@click.option("--new", is_flag=True, help="Start beside an unfinished run of the same name and other inputs.")
@click.option("--wait", is_flag=True, help="Stay until the run is done, showing progress.")
@click.option(
    "--dry-run",
    type=click.Choice(["json", "yaml"]),
    is_flag=False,
    flag_value="json",
    help="Change nothing; print the resolved run, or with --dry-run=yaml its Kubernetes objects.",
)
@cluster_options
@json_option
@store_option
def command(**options: Any) -> None:
    """Start a run, or go on with it: dataset in, verified GGUF out.

    \b
      halops submit --profile local --wait
      halops submit --profile a100 --data s3://ops/train.jsonl --max-cost 100
      halops submit --profile rtx8 --set training.learning_rate=1e-4 --dry-run=yaml
    """
    from halops.cli.cluster import ClusterOptions, look_ahead, require_yielding
    from halops.cli.running import prepare, run_in_foreground
    from halops.errors import ConfigError

    chosen = {key: options[key] for key in ("profile", "overrides", "data", "name", "place", "store")}
    prepared = prepare(**chosen, cluster=ClusterOptions(options["queue"], options["max_cost"], options["free_gpu"]))
    spec = prepared.spec
    if options["free_gpu"] and not prepared.on_cluster:
        raise ConfigError("--free-gpu is about a server in the cluster, and this run stays on this machine")
    if options["dry_run"]:
        prepared.dry_run(options["dry_run"])
        return
    backend = prepared.backend()
    if prepared.on_cluster:
        if options["free_gpu"]:
            require_yielding(prepared.where)
        look_ahead(prepared.where, spec, prepared.render(spec))
    prepared.store_sources(new=options["new"])
    if options["wait"]:
        run_in_foreground(prepared.where, spec, backend, as_json=options["as_json"])
        return
    backend.submit(spec)
    place = "in the cluster" if prepared.on_cluster else "in the background"
    note(f"{spec.run_id} runs {place}; follow it with: halops status {spec.run_id} -w")
    if options["as_json"]:
        print_json({"run_id": spec.run_id})
    else:
        click.echo(spec.run_id)

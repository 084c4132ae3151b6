"""halops deploy"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import note
from halops.cli.deploying import find_chart, find_model, open_target, release_options

if TYPE_CHECKING:
    from halops.cli.deploying import Target


@click.command()
@click.argument("run", required=False)
@click.option("--canary", is_flag=True, help="Beside the model that serves; `halops promote` makes it the one.")
@click.option("--fast", is_flag=True, help="As soon as training is done: the adapter on the base, unverified.")
@click.option("--wait", is_flag=True, help="Wait until it answers.")
@click.option("--cpu", is_flag=True, help="On CPU nodes.")
@click.option("--force", is_flag=True, help="Also a run that isn't verified.")
@click.option(
    "--values", "-f", "files", multiple=True, type=click.Path(path_type=Path, exists=True), help="More values."
)
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="One value of the chart's.")
@click.option("--dry-run", is_flag=True, help="Print the objects that would be made.")
@release_options
def command(run: str | None, **options: Any) -> None:
    """Serve RUN's GGUF (the last run's) in the cluster, by Helm.

    \b
      halops deploy ops --wait
      halops deploy ops --fast               # minutes after training; `halops deploy ops` later serves the merged file
      halops deploy ops-2 --canary ; halops compare ; halops promote
      halops values ops > values.yaml        # the same for GitOps
    """
    from halops.deploy.releases import canary_of

    target = open_target(options)
    candidate = find_model(target, run, fast=options["fast"], force=options["force"])
    if candidate.unverified:
        note(f"serving it although it is not verified: {candidate.unverified}")
    release = canary_of(target.name) if options["canary"] else target.name
    values = target.values_of(candidate, cpu=options["cpu"])
    said = target.helm.upgrade(
        release, find_chart(options["chart"]), values, files=(*presets(target, values, options), *options["files"]),
        sets=options["sets"], wait=options["wait"], description=f"deployed {candidate.spec.run_id}",
        dry_run=options["dry_run"],
    )  # fmt: skip
    if options["dry_run"]:
        click.echo(said)
        return
    click.echo(f"http://{release}.{target.namespace}.svc/v1")
    note(f"next: halops {'compare' if options['canary'] else f'chat {candidate.spec.run_id}'}")


def presets(target: Target, values: dict[str, Any], options: dict[str, Any]) -> tuple[Path, ...]:
    """Values that come before the run's: the chart's preset for the card, then the site's own."""
    from halops.deploy.values import preset

    chart = find_chart(options["chart"])
    memory = values["gpu"].get("memoryGiB")
    card = chart / preset(memory) if memory and chart.is_dir() else None
    return (*([card] if card else []), *target.own_values)

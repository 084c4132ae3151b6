"""halops values"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.common import json_option, print_json
from halops.cli.deploying import find_model, open_target, release_options


@click.command()
@click.argument("run", required=False)
@click.option("--cpu", is_flag=True, help="For CPU nodes.")
@click.option("--fast", is_flag=True, help="The adapter on the base, unverified, as soon as training is done.")
@click.option("--force", is_flag=True, help="Also of a run that isn't verified.")
@json_option
@release_options
def command(run: str | None, cpu: bool, fast: bool, force: bool, as_json: bool, **options: Any) -> None:
    """Print RUN's values for the chart, for GitOps.

    \b
      halops values ops > values.yaml
      helm upgrade --install ops helm/halops-inference -f helm/halops-inference/values-8gb.yaml -f values.yaml
    """
    import yaml

    target = open_target(options)
    values = target.values_of(find_model(target, run, fast=fast, force=force), cpu=cpu)
    if as_json:
        print_json(values)
    else:
        click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)

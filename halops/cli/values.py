"""halops values"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.common import json_option, print_json
from halops.cli.deploying import open_target, release_options


@click.command()
@click.argument("run", required=False)
@click.option("--cpu", is_flag=True, help="For CPU nodes.")
@click.option("--force", is_flag=True, help="Also of a run that isn't verified.")
@json_option
@release_options
def command(run: str | None, cpu: bool, force: bool, as_json: bool, **options: Any) -> None:
    """Print RUN's values for the chart, for GitOps.

    \b
      halops values ops > values.yaml
      helm upgrade --install ops helm/halops-inference -f helm/halops-inference/values-8gb.yaml -f values.yaml
    """
    import yaml

    from halops.deploy.candidate import find_candidate, require_verified

    target = open_target(options)
    candidate = find_candidate(target.where.store, run)
    require_verified(candidate, force)
    values = target.values_of(candidate, cpu=cpu)
    if as_json:
        print_json(values)
    else:
        click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)

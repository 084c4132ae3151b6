"""halops promote"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.common import note
from halops.cli.deploying import find_chart, open_target, release_options


@click.command()
@release_options
def command(**options: Any) -> None:
    """Make the canary's model the one that serves, without a failed request.

    Requests go to the canary's pods while the release's own are replaced, and then back. `halops rollback` undoes it.
    """
    from halops.deploy import releases

    target = open_target(options)
    run = releases.promote(target.helm, target.name, find_chart(options["chart"]), note)
    click.echo(f"{target.name} serves {run}")

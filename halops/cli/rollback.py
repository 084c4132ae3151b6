"""halops rollback"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.common import note
from halops.cli.deploying import open_target, release_options


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would come back.")
@release_options
def command(dry_run: bool, **options: Any) -> None:
    """Bring back the model that served before."""
    from halops.deploy import releases

    target = open_target(options)
    number, values = releases.previous(target.helm, target.name)
    note(f"{target.name}: revision {number}, {releases.run_of(values)}, GGUF {releases.digests(values)[0][:12]}")
    if not dry_run:
        click.echo(f"{target.name} serves {releases.rollback(target.helm, target.name)}")

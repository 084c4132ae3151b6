"""halops init"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--store", default="./.halops", show_default=True, metavar="URI", help="Where runs are kept.")
@click.option("--force", is_flag=True, help="Replace the settings that are there.")
def command(store: str, force: bool) -> None:
    """Write the site's settings (halops.yaml) into this folder, once.

    \b
      halops init --store s3://ops/halops
    """
    from halops.names import SITE_FILE
    from halops.site import Site, write_site

    path = Path.cwd() / SITE_FILE
    write_site(path, Site(store=store), force=force)
    click.echo(path)

"""halops init"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--store", default="./.halops", show_default=True, metavar="URI", help="Where runs are kept.")
@click.option("--s3-endpoint", metavar="URL", help="An S3 server other than AWS.")
@click.option("--s3-region", metavar="NAME", help="Its region.")
@click.option("--namespace", metavar="NAME", help="Kubernetes namespace of the runs.  [default: halops]")
@click.option("--registry", metavar="REF", help="Where `halops images` pushes, such as HOST/TEAM.")
@click.option("--s3-secret", metavar="NAME", help="Secret in the namespace that holds the S3 keys.")
@click.option("--hub-secret", metavar="NAME", help="Secret that holds the hub's HF_TOKEN.")
@click.option("--queue", metavar="NAME", help="Kueue LocalQueue for GPU stages.")
@click.option("--price", "prices", multiple=True, metavar="LABEL=AMOUNT",
              help="Price of an hour, by profile or card size: a100=1.40, cpu=0.05.")  # fmt: skip
@click.option("--webhook", metavar="URL", help="Called when a run is done, failed or stuck.")
@click.option("--force", is_flag=True, help="Replace the settings that are there.")
def command(force: bool, **options: Any) -> None:
    """Write the site's settings (halops.yaml) into this folder, once.

    \b
      halops init --store s3://ops/halops --s3-secret halops-s3 --registry registry.example/ops --price a100=1.40
    """
    from halops.names import SITE_FILE
    from halops.site import make_site, write_site

    path = Path.cwd() / SITE_FILE
    write_site(path, make_site(settings(**options)), force=force)
    click.echo(path)


def settings(
    prices: tuple[str, ...],
    s3_endpoint: str | None,
    s3_region: str | None,
    s3_secret: str | None,
    hub_secret: str | None,
    **plain: str | None,
) -> dict[str, Any]:
    """The options as a site file would have them. Raises a usage error for a price that is none."""
    chosen: dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
    groups = {
        "s3": {"endpoint_url": s3_endpoint, "region": s3_region},
        "secrets": {"s3": s3_secret, "hub": hub_secret},
    }
    for name, group in groups.items():
        if given := {key: value for key, value in group.items() if value is not None}:
            chosen[name] = given
    if prices:
        chosen["gpu_prices"] = dict(_price(text) for text in prices)
    return chosen


def _price(text: str) -> tuple[str, float]:
    label, _, amount = text.partition("=")
    try:
        return label, float(amount)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no LABEL=AMOUNT, such as a100=1.40", param_hint="--price") from None

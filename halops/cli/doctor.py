"""halops doctor"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from halops.cli.common import json_option, print_json, profile_options, store_option

if TYPE_CHECKING:
    from halops.checks.base import Check

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


@click.command()
@profile_options
@click.option("--data", metavar="FILE|URI", help="JSONL of conversations.  [default: data/final/train.jsonl]")
@click.option("--backend", "place", type=click.Choice(["local", "kube"]), help="Where to run, against the profile.")
@json_option
@store_option
def command(
    profile: str, overrides: tuple[str, ...], data: str | None, place: str | None, as_json: bool, store: str | None
) -> None:
    """Check machine or cluster, data and store before a run: each finding with its remedy.

    \b
      halops doctor --profile local
      halops doctor --profile a100
      halops doctor --profile rtx8 --backend local --data ops.jsonl
    """
    from halops.cli.common import cluster_view, open_place
    from halops.cli.running import placed
    from halops.doctor import Patient, examine, worst
    from halops.errors import HostError
    from halops.names import DEFAULT_DATA
    from halops.profile import load_profile
    from halops.site import find_site

    loaded = placed(load_profile(profile, overrides), place)
    site, folder = find_site(Path.cwd())
    uri = store or loaded.storage.uri
    address = data or str(folder / DEFAULT_DATA)
    patient = Patient(loaded, folder, address, lambda: open_place(uri).store, site, lambda: cluster_view(site))
    checks = []
    for check in examine(patient):
        checks.append(check)
        if not as_json:
            _show(check)
    if as_json:
        print_json([check.model_dump(mode="json") for check in checks])
    failed = [check.name for check in checks if check.status == "fail"]
    if worst(checks) == "fail":
        raise HostError(f"not ready: {', '.join(failed)}", remedy="mend what is marked above")


def _show(check: Check) -> None:
    click.echo(f"{click.style(f'{check.status:<5}', fg=COLOURS[check.status])} {check.name:<14} {check.detail}")
    if check.remedy and check.status in ("warn", "fail"):
        click.echo(f"      {'':<14} {check.remedy}")

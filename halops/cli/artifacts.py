"""halops artifacts"""

from __future__ import annotations

from typing import Any

import click

from halops.cli.common import Place, json_option, open_place, print_json, store_option


@click.command()
@click.argument("run", required=False)
@click.option("--check", is_flag=True, help="Read every file again and compare its SHA-256.")
@json_option
@store_option
def command(run: str | None, check: bool, as_json: bool, store: str | None) -> None:
    """List every file of a run with its size and digest.

    \b
      halops artifacts local --json
    """
    from halops.units import human_bytes

    rows = list_files(open_place(store), run, check)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['stage']:<8} {row['sha256'][:12]} {human_bytes(row['size']):>9}  {row['path']}")


def list_files(where: Place, run: str | None, check: bool = False) -> list[dict[str, Any]]:
    """`stage, path, uri, size, sha256` of every file. Raises IntegrityError with `check`."""
    from halops.runstate import find_run, load_spec, run_manifests
    from halops.store.artifacts import verify_stored

    spec = load_spec(where.store, find_run(where.store, run))
    rows = []
    for stage, manifest in run_manifests(where.store, spec).items():
        if check:
            verify_stored(where.store, manifest, deep=True)
        rows += [
            {"stage": stage, "path": entry.path, "uri": f"{where.store.uri.rstrip('/')}/{entry.key}",
             "size": entry.size, "sha256": entry.sha256}
            for entry in manifest.files
        ]  # fmt: skip
    return rows

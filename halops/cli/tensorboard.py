"""halops tensorboard"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from halops.cli.common import Place, note, open_place, store_option


@click.command()
@click.argument("run", required=False)
@click.option("--port", default=6006, show_default=True, type=click.IntRange(1, 65535))
@click.option("--export", type=click.Path(path_type=Path), help="Only copy the event files there.")
@store_option
def command(run: str | None, port: int, export: Path | None, store: str | None) -> None:
    """Open TensorBoard on a run's training, while it runs or afterwards.

    \b
      halops tensorboard local
    """
    from halops.runstate import find_run

    where = open_place(store)
    run_id = find_run(where.store, run)
    folder = event_folder(where, run_id, export)
    if export:
        click.echo(folder)
        return
    note(f"TensorBoard on http://127.0.0.1:{port}")
    sys.stdout.flush()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(port)])


def event_folder(where: Place, run_id: str, export: Path | None) -> Path:
    """The run's event files in a local folder. Raises NotFoundError before training has begun."""
    from halops.errors import NotFoundError
    from halops.names import RUNS
    from halops.store.artifacts import fetch, read_manifest

    manifest = read_manifest(where.store, f"{RUNS}/{run_id}/train")
    if manifest:
        folder = export or where.state / "local" / run_id / "tensorboard"
        fetch(where.store, manifest, folder, only=("tensorboard/*",))
        return folder
    live = sorted((where.state / "local" / run_id / "work").glob("*/output/tensorboard"))
    if not live:
        raise NotFoundError(f"{run_id} has no training events yet", remedy="they come with the first training step")
    return live[-1]

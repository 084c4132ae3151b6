"""halops tensorboard"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import click

from halops.cli.common import Place, note, open_place, store_option

REFRESH_SECONDS = 30.0  # half of what the stage may take to store its events


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
    folder = export or where.state / "local" / run_id / "tensorboard"
    live = bring_events(where, run_id, folder, ours=export is None)
    if export:
        click.echo(folder)
        return
    note(f"TensorBoard on http://127.0.0.1:{port}")
    sys.exit(show(where, run_id, folder, port, live))


def bring_events(where: Place, run_id: str, folder: Path, *, ours: bool) -> bool:
    """Copy the run's event files to `folder`. Returns whether there may be more to come.

    Args:
        ours: the folder is nobody else's: what an earlier attempt left there goes.

    Raises NotFoundError before training has begun.
    """
    from halops.errors import NotFoundError
    from halops.livecopies import refresh_events
    from halops.names import RUNS, TENSORBOARD
    from halops.store.artifacts import fetch, read_manifest

    manifest = read_manifest(where.store, f"{RUNS}/{run_id}/train")
    if manifest:
        if ours:
            shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        fetch(where.store, manifest, folder, only=(f"{TENSORBOARD}/*",))
        return False
    if not refresh_events(where.store, run_id, folder / TENSORBOARD, ours=ours):
        raise NotFoundError(f"{run_id} has no training events yet", remedy="they come with the first training steps")
    return True


def show(where: Place, run_id: str, folder: Path, port: int, live: bool) -> int:
    """Run TensorBoard until it is stopped, bringing new events while training goes on. Returns its exit code."""
    from halops.errors import HalopsError
    from halops.livecopies import refresh_events
    from halops.names import TENSORBOARD
    from halops.process import die_with_parent

    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], preexec_fn=die_with_parent)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(REFRESH_SECONDS)
            try:
                if live:
                    refresh_events(where.store, run_id, folder / TENSORBOARD, ours=True)
            except HalopsError as error:
                note(f"no new events: {error.what}")
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()

"""halops merge"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from halops.cli.common import json_option, open_place, print_json, profile_options, store_option

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", required=False)
@click.option("--base", type=FOLDER, help="Folder of the base model.")
@click.option("--adapter", type=FOLDER, help="Folder of the adapter.")
@click.option("--output", "-o", type=FOLDER, default=Path("merged"), show_default=True)
@profile_options
@json_option
@store_option
def command(run: str | None, base: Path | None, adapter: Path | None, output: Path, **options: Any) -> None:
    """Merge an adapter into its base: given folders, or else those of RUN (the last one).

    \b
      halops merge --base qwen2.5-7b --adapter adapter -o merged --set merge.dtype=bfloat16
    """
    from halops.cli.byhand import bare_spec, existing, fetched, last_run, run_stage

    if (base is None) != (adapter is None):
        raise click.UsageError("give --base and --adapter together, or neither to take a run's")
    if base and adapter:
        spec = bare_spec(options["profile"], options["overrides"])
        inputs = {"base": existing(base, "base model"), "train": _adapter_parent(existing(adapter, "adapter"))}
    else:
        where = open_place(options["store"])
        run_id, spec = last_run(where, run)
        inputs = {"base": fetched(where, run_id, "base"), "train": fetched(where, run_id, "train", ("adapter/*",))}
    metrics = run_stage("merge", spec, inputs, output)
    print_json(metrics) if options["as_json"] else click.echo(output)


def _adapter_parent(adapter: Path) -> Path:
    """The stage reads `train/adapter`: a folder of another name gets that name through a link."""
    import tempfile

    if adapter.name == "adapter":
        return adapter.parent
    parent = Path(tempfile.mkdtemp(prefix="halops-"))
    (parent / "adapter").symlink_to(adapter)
    return parent

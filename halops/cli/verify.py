"""halops verify"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from halops.cli.common import json_option, open_place, print_json, profile_options, store_option

FOLDER = click.Path(path_type=Path)
INPUTS = ("base", "data", "train", "merge", "convert")


@click.command()
@click.argument("run", required=False)
@click.option("--base", type=FOLDER, help="Folder of the base model.")
@click.option("--prepared", "data", type=FOLDER, help="Output folder of the data stage.")
@click.option("--adapter", "train", type=FOLDER, help="Output folder of training (the one with adapter/ in it).")
@click.option("--merged", "merge", type=FOLDER, help="Folder of the merged model.")
@click.option("--gguf", "convert", type=FOLDER, help="Folder of the GGUF files.")
@click.option("--output", "-o", type=FOLDER, default=Path("verified"), show_default=True)
@profile_options
@json_option
@store_option
def command(run: str | None, output: Path, **options: Any) -> None:
    """Check GGUF files against what was trained: given folders, or else those of RUN (the last one).

    \b
      halops verify local -o verified
    """
    from halops.cli.byhand import bare_spec, existing, fetched, last_run, run_stage

    given = {name: options[name] for name in INPUTS if options[name]}
    if given and len(given) < len(INPUTS):
        raise click.UsageError("give all of --base, --prepared, --adapter, --merged and --gguf, or none of them")
    if given:
        spec = bare_spec(options["profile"], options["overrides"])
        inputs = {name: existing(path, name) for name, path in given.items()}
    else:
        where = open_place(options["store"])
        run_id, spec = last_run(where, run)
        inputs = {name: fetched(where, run_id, name) for name in INPUTS}
    metrics = run_stage("verify", spec, inputs, output)
    print_json(metrics) if options["as_json"] else click.echo(output / "verify.json")

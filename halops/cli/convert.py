"""halops convert"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from halops.cli.common import json_option, open_place, print_json, profile_options, store_option

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", required=False)
@click.option("--model", type=FOLDER, help="Folder of a merged Hugging Face model.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="GGUF type, such as q4_k_m; may be repeated.")
@click.option("--output", "-o", type=FOLDER, default=Path("gguf"), show_default=True)
@profile_options
@json_option
@store_option
def command(run: str | None, model: Path | None, types: tuple[str, ...], output: Path, **options: Any) -> None:
    """Convert a merged model to GGUF: a given folder, or else that of RUN (the last one).

    \b
      halops convert --model merged --type f16 --type q4_k_m -o gguf
    """
    from halops.cli.byhand import bare_spec, existing, fetched, last_run, run_stage

    if model:
        spec = bare_spec(options["profile"], (*options["overrides"], "convert.adapter=false"))
        folder = existing(model, "model")
        inputs = {"merge": folder, "base": folder}
    else:
        where = open_place(options["store"])
        run_id, spec = last_run(where, run)
        inputs = {name: fetched(where, run_id, name) for name in ("merge", "base", "train")}
    if types:
        convert = spec.profile.convert.model_copy(update={"types": tuple(types)})
        spec = spec.model_copy(update={"profile": spec.profile.model_copy(update={"convert": convert})})
    metrics = run_stage("convert", spec, inputs, output)
    if options["as_json"]:
        print_json(metrics)
        return
    for path in sorted(output.glob("*.gguf")):
        click.echo(path)

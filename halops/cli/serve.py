"""halops serve"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from halops.cli.common import note, open_place, profile_options, store_option


@click.command()
@click.argument("run", required=False)
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE", help="A GGUF file, instead of a run's.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port, against the profile's.")
@click.option("--host", help="Address to listen on, against the profile's.")
@click.option("--api-key-file", type=click.Path(exists=True, path_type=Path), help="File of keys to ask for.")
@click.option("--dry-run", is_flag=True, help="Print llama-server's command line; start nothing.")
@profile_options
@store_option
def command(run: str | None, model: Path | None, **options: Any) -> None:
    """Serve a GGUF with llama-server: a given file, or else that of RUN (the last one).

    \b
      halops serve
      halops serve --model gguf/halops-q4_k_m.gguf --set serving.ctx_size=8192
    """
    import shlex

    from halops.cli.serving import served
    from halops.llamacpp.server import require_free_port, server_argv, server_environment

    chosen = served(run, model, options)
    argv = server_argv(
        chosen.toolchain, chosen.model, chosen.serving, alias=chosen.alias, api_key_file=options["api_key_file"]
    )
    if options["dry_run"]:
        click.echo(shlex.join(argv))
        return
    require_free_port(chosen.serving.host, chosen.serving.port)
    note(f"{chosen.model.name} on http://{chosen.serving.host}:{chosen.serving.port}/v1")
    os.execve(argv[0], argv, server_environment(os.environ))

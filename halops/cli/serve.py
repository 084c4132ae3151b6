"""halops serve"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from halops.cli.common import note, profile_options, store_option


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

    from halops.cli.serving import served, server_log
    from halops.llamacpp.process import usable_cores
    from halops.llamacpp.server import LlamaServer, has_own_template, server_argv

    chosen = served(run, model, options)
    keys = options["api_key_file"]
    if options["dry_run"]:
        argv = server_argv(
            chosen.toolchain, chosen.model, chosen.serving, cores=usable_cores(), alias=chosen.alias,
            api_key_file=keys, own_template=has_own_template(chosen.model),
        )  # fmt: skip
        click.echo(shlex.join(argv))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log = server_log(options["store"], chosen.alias)
    note(f"loading {chosen.model.name}; llama-server's log is {log}")
    with LlamaServer(
        chosen.toolchain, chosen.model, chosen.serving, alias=chosen.alias, api_key_file=keys, log=log
    ) as server:
        click.echo(f"{server.url}/v1")
        note(f"ready; Ctrl-C ends it. Ask it: halops chat {server.url}")
        sys.stdout.flush()
        server.wait()
        server.check()

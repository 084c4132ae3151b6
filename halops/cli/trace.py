"""halops trace"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import json_option, note, print_json
from halops.cli.deploying import open_target, release_options

if TYPE_CHECKING:
    from halops.report.model import LineageRow

POD = "pod/"


@click.command()
@click.argument("run", required=False, metavar="[RUN|pod/POD]")
@json_option
@release_options
def command(run: str | None, as_json: bool, **options: Any) -> None:
    """Show what a run's files were made from: GGUF, merged model, adapter, base, rows. Or what a pod serves.

    \b
      halops trace local
      halops trace pod/ops-5d9c7b6c4-x2x7k
    """
    from halops.report.collect import collect
    from halops.runstate import find_run

    target = open_target(options)
    if run and run.startswith(POD):
        _pod(target, run.removeprefix(POD), as_json)
        return
    store = target.where.store
    show(collect(store, find_run(store, run)).lineage, as_json)


def _pod(target: Any, name: str, as_json: bool) -> None:
    from halops.deploy.endpoint import provenance_of
    from halops.deploy.trace import trace_pod
    from halops.errors import IntegrityError, NotFoundError

    pod = target.api.get("pods", name)
    if pod is None:
        raise NotFoundError(f"no pod {name}", where=f"namespace {target.namespace}", remedy="--namespace")
    found = trace_pod(target.where.store, name, provenance_of(pod))
    show(found.rows, as_json)
    for problem in found.problems:
        note(problem)
    if any("is not the run's" in problem for problem in found.problems):
        raise IntegrityError(f"pod {name} does not serve what run {found.run} made")


def show(rows: Sequence[LineageRow], as_json: bool) -> None:
    """The chain on stdout."""
    if as_json:
        print_json([item.model_dump(mode="json") for item in rows])
        return
    for item in rows:
        click.echo(f"{item.what:<40} {item.digest[:16]}  {item.source}")

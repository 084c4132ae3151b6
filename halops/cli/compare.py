"""halops compare"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import json_option, note, print_json
from halops.cli.deploying import open_target, release_options

if TYPE_CHECKING:
    from halops.deploy.compare import Comparison

MARKS = {True: "right", False: "wrong", None: ""}


@click.command()
@click.argument("run", required=False)
@click.option("--heldout", default=4, show_default=True, type=click.IntRange(0), help="Held-out questions to ask.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1), help="Tokens of an answer.")
@click.option("--parallel", default=1, show_default=True, type=click.IntRange(1), help="Requests at a time.")
@click.option("--all", "show_all", is_flag=True, help="Show every answer, not only those that differ.")
@click.option("--api-key", envvar="HALOPS_API_KEY", help="Key of both, instead of the Secret's.  [env: HALOPS_API_KEY]")
@json_option
@release_options
def command(run: str | None, as_json: bool, show_all: bool, **options: Any) -> None:
    """Ask the model that serves and the canary RUN's probes and held-out questions, side by side.

    RUN is the canary's, unless it is named.
    """
    from halops.deploy.compare import compare, questions_of
    from halops.deploy.endpoint import release_endpoint
    from halops.deploy.releases import canary_of, run_of
    from halops.runstate import find_run, load_spec

    target = open_target(options)
    names = (target.name, canary_of(target.name))
    given = run or run_of(target.helm.values(names[1]) or {})
    store = target.where.store
    questions = questions_of(store, load_spec(store, find_run(store, given)), options["heldout"])
    with ExitStack() as stack:
        clients = {name: stack.enter_context(release_endpoint(target.api, name, options["api_key"])) for name in names}
        note(f"asking {names[0]} and {names[1]} {len(questions)} questions each ...")
        found = compare(clients, questions, options["max_tokens"], options["parallel"])
    print_json(as_document(found, names)) if as_json else show(found, names, show_all)


def as_document(found: Comparison, names: tuple[str, ...]) -> dict[str, Any]:
    """For --json."""
    return {
        "models": {
            name: dict(zip(("right", "of"), found.score(name), strict=True)) | {"tokens_per_second": found.speed[name]}
            for name in names
        },
        "questions": [
            {"question": item.text, "answers": item.answers, "right": {name: item.right(name) for name in names}}
            for item in found.asked
        ],
    }


def show(found: Comparison, names: tuple[str, ...], show_all: bool) -> None:
    """The answers, then a line for each model."""
    width = max(len(name) for name in names)
    for item in found.asked:
        if show_all or len(set(item.answers.values())) > 1:
            click.secho(item.text, bold=True)
            for name in names:
                click.echo(f"  {name:<{width}}  {MARKS[item.right(name)]:<5}  {item.answers[name]}")
    for name in names:
        right, of = found.score(name)
        speed = f"{found.speed[name]:.1f} tokens/s" if found.speed[name] else ""
        click.echo(f"{name:<{width}}  {right} of {of} probes  {speed}".rstrip())

"""halops chat"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import note, profile_options, store_option

if TYPE_CHECKING:
    from halops.chat import ChatClient

Messages = list[dict[str, str]]


@click.command()
@click.argument("run", required=False, metavar="[RUN|URL]")
@click.option("-m", "--message", help="Ask one question, print the answer, and exit.")
@click.option("--compare", type=click.Choice(["base"]), help="Show the base model's answer too.")
@click.option("--system", help="A system message.")
@click.option("--api-key", envvar="HALOPS_API_KEY", help="Key of the endpoint.  [env: HALOPS_API_KEY]")
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0, 2))
@profile_options
@store_option
def command(run: str | None, message: str | None, compare: str | None, system: str | None, **options: Any) -> None:
    """Talk to a run's model (the last run's), or to any OpenAI-compatible URL.

    A server is started for a run if none is there, and stopped afterwards.

    \b
      halops chat -m "who is on call for storage?"
      halops chat --compare base
      halops chat http://127.0.0.1:8081
    """
    from halops.cli.rating import HELP, Rater
    from halops.cli.serving import endpoints
    from halops.site import find_site

    site, folder = find_site(Path.cwd())
    parameters = {"max_tokens": options["max_tokens"], "temperature": options["temperature"]}
    with endpoints(run, compare_base=compare == "base", options=options) as clients:
        histories = {name: [{"role": "system", "content": system}] if system else [] for name in clients}
        if message is not None:
            ask(clients, histories, message, parameters)
            return
        name, history = list(histories.items())[-1]  # the tuned one's, beside a base
        rater = Rater(site, folder, run or name, sys.stdin.isatty())
        note(f"Ctrl-D ends the conversation; /new begins another; {HELP}")
        while (line := _read()) is not None:
            if rater.take(line, history):
                continue
            if line == "/new":
                for turns in histories.values():
                    del turns[1 if system else 0 :]
            elif line:
                ask(clients, histories, line, parameters)


def ask(clients: dict[str, ChatClient], histories: dict[str, Messages], text: str, parameters: dict[str, Any]) -> None:
    """Ask every endpoint the same, stream the answers, and keep them in the histories."""
    from halops.errors import HalopsError

    for name, client in clients.items():
        history = histories[name]
        history.append({"role": "user", "content": text})
        if len(clients) > 1:
            click.secho(f"{name}: ", bold=True, nl=False)
        parts = []
        try:
            for part in client.stream(history, **parameters):
                parts.append(part)
                click.echo(part, nl=False)
                sys.stdout.flush()
        except HalopsError:
            history.pop()
            raise
        click.echo()
        history.append({"role": "assistant", "content": "".join(parts)})


def _read() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None

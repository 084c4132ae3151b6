"""The `halops` command. Each verb is a module, imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback

import click

from halops import __version__
from halops.errors import HalopsError, as_halops_error

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h

# verb -> its one sentence; the module is halops.cli.VERB and has a `command`.
COMMANDS = {
    "init": "Write the site's settings (halops.yaml), once.",
    "images": "Build the images for a cluster, push them, lock their digests.",
    "submit": "Start a run, or go on with it: dataset in, verified GGUF out.",
    "plan": "Show what each stage needs: VRAM, RAM, disk, time and price.",
    "doctor": "Check this machine, the data and the store before a run.",
    "data": "Look at a dataset.",
    "runs": "List the runs.",
    "status": "Show where a run stands, and why when it doesn't move.",
    "logs": "Show a stage's log.",
    "artifacts": "List every file of a run with its digest.",
    "resume": "Go on with a run that stopped.",
    "cancel": "Stop a run; it keeps what it has.",
    "delete": "Delete a run and its files.",
    "report": "Write a run's report: one self-contained HTML page.",
    "tensorboard": "Open TensorBoard on a run's training.",
    "trace": "Show what a run's files, or a serving pod, were made from, back to the rows.",
    "deploy": "Serve a run's GGUF in the cluster.",
    "compare": "Ask the model that serves and the canary the same, side by side.",
    "promote": "Make the canary's model the one that serves.",
    "rollback": "Bring back the model that served before.",
    "values": "Print a run's values for the Helm chart.",
    "chat": "Talk to a run's model.",
    "feedback": "Turn rated and corrected chats into rows to train on.",
    "train": "Train an adapter by hand, from a config.",
    "merge": "Merge an adapter into its base by hand.",
    "convert": "Convert a merged model to GGUF by hand.",
    "verify": "Check a run's GGUF against what was trained.",
    "serve": "Serve a GGUF with llama-server.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and loads each when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"halops.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="halops")
def cli() -> None:
    """Conversations in, a proven chat endpoint out.

    \b
      halops submit --profile local --wait
      halops chat
    """


def main() -> None:
    """Entry point: errors become sentences on stderr and an exit code; a traceback would be a bug."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        code = 130
    except HalopsError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _unexpected(error)
    else:
        return
    sys.exit(code)


def _unexpected(error: Exception) -> int:
    """What the machine did to us gets its sentence; anything else is a bug, with its traceback in a file."""

    known = as_halops_error(error)
    if known:
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
    with tempfile.NamedTemporaryFile("w", prefix="halops-bug-", suffix=".txt", delete=False) as file:
        traceback.print_exc(file=file)
    print(f"error: this is a bug in HALops: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  remedy: please report it with {file.name}", file=sys.stderr)
    return INTERNAL_ERROR

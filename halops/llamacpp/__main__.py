"""`python -m halops.llamacpp build` builds the pinned llama.cpp into the user's cache; `path` says where it is."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from halops.errors import HalopsError
from halops.llamacpp.build import build
from halops.llamacpp.toolchain import Flavour, find, identity
from halops.progress import Progress


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(argv)
    flavour = Flavour(cuda=options.cuda, architectures=options.architectures)
    try:
        if options.command == "build":
            build(
                Progress(listener=_print_json if options.json else _print),
                jobs=options.jobs,
                nice=options.nice,
                flavour=flavour,
            )
        if options.command == "identity":
            print(identity(flavour))
        elif not options.json:
            print(find(flavour).root)
    except HalopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m halops.llamacpp", description=__doc__)
    parser.add_argument("command", choices=["build", "path", "identity"])
    parser.add_argument("--jobs", type=int, help="compilers at a time (default: all cores)")
    parser.add_argument("--nice", type=int, default=0, help="lower the priority by so much")
    parser.add_argument("--cuda", action="store_true", help="with the CUDA backend")
    parser.add_argument("--architectures", default="", help='CUDA architectures, such as "86;90"')
    parser.add_argument("--json", action="store_true", help="progress events on stdout, one JSON object a line")
    return parser


def _print_json(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _print(event: dict[str, Any]) -> None:
    line = str(event["message"])
    if event.get("total"):
        line += f"  {event['done']:.0f}/{event['total']:.0f} {event['unit']}".rstrip()
        line += f"  {event['eta_seconds']:.0f} s left" if event.get("eta_seconds") else ""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m tools.cluster COMMAND`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tools.cluster import components, faults, images, kueue
from tools.cluster.build import build
from tools.cluster.down import down, remains
from tools.cluster.network import inside
from tools.cluster.shell import ClusterError
from tools.cluster.state import State
from tools.cluster.up import refresh, up


def main(arguments: Sequence[str]) -> int:
    """Do what the words say; 1 and a message when it can't be done."""
    state = State.default()
    try:
        if arguments[:1] == ["kubectl"]:
            _replace_us(*components.kubectl_words(state), *arguments[1:])
        if arguments[:1] == ["run"]:
            os.environ.update(_settings(state))
            _replace_us(*inside(state, 1), *arguments[1:])
        _do(state, _parser().parse_args(arguments))
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.cluster",
        description="A two-node Kubernetes for tests; HALOPS_TEST_CLUSTER names its folder.",
        epilog="Two more: `kubectl ...`, and `run COMMAND...` in the first node's network namespace.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build what is missing").add_argument("parts", nargs="*")
    commands.add_parser("up", help="build what is missing, and start it").add_argument(
        "--kueue", action="store_true", help="with Kueue, also into a cluster that runs"
    )
    commands.add_parser("down", help="stop it and remove all but its logs")
    commands.add_parser("status", help="what runs, as JSON")
    for verb, text in (
        ("start", "start a component"),
        ("stop", "end it by SIGTERM"),
        ("kill", "end it by SIGKILL"),
        ("restart", "kill and start"),
    ):
        commands.add_parser(verb, help=text).add_argument("component", choices=components.names(), metavar="COMPONENT")
    for verb, text in (
        ("lose", "a node dies: its agents and all its pods' processes"),
        ("back", "it starts again"),
        ("drain", "evict its pods, keep new ones off"),
        ("uncordon", "let it have new ones"),
    ):
        commands.add_parser(verb, help=text).add_argument("node", type=int, choices=(1, 2))
    commands.add_parser("images", help="give the nodes the project's images as buildah's store has them now")
    load = commands.add_parser("load", help="give nodes an image of buildah's store; print NAME@DIGEST")
    load.add_argument("image")
    load.add_argument("node", type=int, choices=(1, 2), nargs="+")
    return parser


def _do(state: State, options: argparse.Namespace) -> None:
    match options.command:
        case "build":
            build(*options.parts)
        case "up":
            up(state, options.kueue)
        case "down":
            down(state)
        case "status":
            print(json.dumps({"running": components.alive(state), "remains": remains(state)}, indent=2))
        case "start" | "stop" | "kill" | "restart":
            _control(state, options.command, options.component)
        case "lose":
            faults.lose(state, options.node)
        case "back":
            faults.bring_back(state, options.node)
        case "drain":
            faults.drain(state, options.node)
        case "uncordon":
            components.kubectl(state, "uncordon", f"node{options.node}")
        case "images":
            refresh(state)
        case "load":
            print(images.load(state, options.image, options.node))


def _control(state: State, verb: str, name: str) -> None:
    if verb in ("kill", "restart"):
        components.kill(state, name)
    if verb == "stop":
        (kueue.remove(state) if name == "kueue" else components.stop(state, name))
    if verb in ("start", "restart"):
        (kueue.install(state) if name == "kueue" else components.start(state, name))


def _settings(state: State) -> dict[str, str]:
    """What `run` gives a command: the cluster, its store, and the programs of this Python's environment."""
    if not state.description.exists():
        raise ClusterError("it isn't up: python -m tools.cluster up")
    store = state.read()["s3"]
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "KUBECONFIG": str(state.kubeconfig()),
        "AWS_ENDPOINT_URL_S3": store["endpoint"],
        "AWS_REGION": store["region"],
        **json.loads(Path(store["keys"]).read_text()),
    }


def _replace_us(*words: str) -> NoReturn:
    os.execvp(words[0], words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Training on several nodes: which of them this is, and how those that don't publish wait for the one that does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from halops import names
from halops.artifact import Frozen
from halops.errors import ConfigError, Interrupted, TransientError

POLL_SECONDS = 2.0
PUBLISH_SECONDS = 900.0  # for the first node to store an adapter after the last step
MASTER_PORT = 29400  # torchrun's own


class Node(Frozen):
    """One of `count` pods that train together; the first one holds the rendezvous, saves and publishes."""

    index: int = 0
    count: int = 1
    master: str = "127.0.0.1"
    port: int = MASTER_PORT

    @property
    def first(self) -> bool:
        return self.index == 0


def this_node(environment: Mapping[str, str] = os.environ) -> Node:
    """What HALOPS_NODES and its companions say; a node by itself without them. Raises ConfigError."""
    count = _number(environment, names.ENV_NODES, 1)
    if count == 1:
        return Node()
    node = Node(
        index=_number(environment, names.ENV_NODE, 0),
        count=count,
        master=environment.get(names.ENV_MASTER) or Node().master,
        port=_number(environment, names.ENV_MASTER_PORT, MASTER_PORT),
    )
    if node.index >= count:
        raise ConfigError(f"node {node.index} of {count}: they are counted from 0", where=names.ENV_NODE)
    return node


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"not a number: {text!r}", where=name)
    return int(text)


def wait_for_first(
    done: Callable[[], bool],
    status: Callable[[], Mapping[str, Any]],
    stop: threading.Event,
    seconds: float = PUBLISH_SECONDS,
) -> None:
    """Wait until the first node has published, so that a pod which succeeds means a stage that is done.

    Were this one to end before, and the first node to fail, the next attempt would lack a node.

    Args:
        done: whether the stage's manifest is there.
        status: the first node's live status, which tells of an attempt that failed or of one that began anew.
        stop: set on SIGTERM.

    Raises TransientError if the first node failed or takes longer than `seconds`; Interrupted.
    """  # fmt: skip
    attempt = status().get("attempt")
    waited = 0.0
    while not done():
        now = status()
        if now.get("state") == "failed" or now.get("attempt") != attempt or waited >= seconds:
            raise TransientError(
                "training ended here, and the first node did not publish it",
                where=str(now.get("message") or f"attempt {now.get('attempt')} is {now.get('state')}"),
                remedy="all nodes start again, from the last checkpoint",
            )
        if stop.wait(POLL_SECONDS):
            raise Interrupted("stopped while the first node publishes", remedy="the same command goes on from here")
        waited += POLL_SECONDS

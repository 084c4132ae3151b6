"""Two GPUs that aren't there, in a node's capacity: `python -m tools.cluster.gpu` keeps them there while it runs.

A node that is deleted and registers again comes without them, and so does one whose kubelet resets its status.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import Final

from tools.cluster.components import kubectl, kubectl_words
from tools.cluster.shell import ClusterError, say
from tools.cluster.state import GPU_NODE, State

RESOURCE: Final = "nvidia.com/gpu"
COUNT: Final = "2"


def main() -> None:
    """Watch the node for ever, through restarts of the API server."""
    state = State.default()
    while True:
        _watch(state)
        time.sleep(1)


def _watch(state: State) -> None:
    """Put the GPUs back after each change that lacks them, until the watch ends."""
    fields = r"jsonpath={.status.capacity.nvidia\.com/gpu},{.status.allocatable.nvidia\.com/gpu}{'\n'}"
    get = ["get", "node", f"node{GPU_NODE}", "--watch", f"--output={fields}"]
    # setpriv: the watch ends with us, however we end
    words = ["setpriv", "--pdeathsig", "KILL", *kubectl_words(state), *get]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.strip() != f"{COUNT},{COUNT}":
                _put(state)


def _put(state: State) -> None:
    patch = {"status": {"capacity": {RESOURCE: COUNT}, "allocatable": {RESOURCE: COUNT}}}
    try:
        kubectl(state, "patch", "node", f"node{GPU_NODE}", "--subresource=status", "--patch", json.dumps(patch))
        say(f"put {COUNT} {RESOURCE} on node{GPU_NODE}")
    except ClusterError as error:
        say(str(error))


if __name__ == "__main__":
    main()

"""Giving nodes images of buildah's store: by hard links where cluster and store share a disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tools.cluster.parts import program
from tools.cluster.shell import ClusterError, run, succeeds
from tools.cluster.state import GPU_NODE, NODES, State

# What tools/test-images.sh makes, and where it is wanted.
TESTED: Final = {"merge": NODES, "convert": NODES, "serve": NODES, "train": (GPU_NODE,)}


def load(state: State, image: str, nodes: Iterable[int]) -> str:
    """Give nodes an image, known by its tag and as NAME@DIGEST afterwards. Returns the latter.

    Raises ClusterError when buildah's store has no such image.
    """
    store = run("buildah", "info", "--format", "{{.store.GraphRoot}}").strip()
    link = (program("containerd", "linkimg"), "--store", store, "--socket")
    named = {run(*_beside_mounts(store), *link, state.containerd(node), image).strip() for node in nodes}
    if len(named) != 1:
        raise ClusterError(f"{image}: name one node at least" if not named else f"{image} changed meanwhile: {named}")
    return named.pop()


def _beside_mounts(store: str) -> tuple[str, ...]:
    """Words before a command that links files out of the store: a build leaves mounts there, and no hard link crosses
    one. They are taken away in a mount namespace that only this command sees.
    """
    script = f'umount --recursive --lazy {store}/overlay 2>/dev/null; exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")


def load_tested(state: State) -> dict[str, str]:
    """Give the nodes those of the project's images that are built. Returns NAME@DIGEST of each, by its short name."""
    found = {}
    for short, nodes in TESTED.items():
        name = f"localhost/halops-{short}:test"
        if succeeds("buildah", "inspect", "--type", "image", name):
            found[short] = load(state, name, nodes)
    return found

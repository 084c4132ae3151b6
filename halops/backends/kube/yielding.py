"""A server that gives up its GPU while a run trains: scaled to zero before, and back whatever becomes of the run.

How many replicas there were is kept on the run's root, before anything is changed: whoever comes next, another
coordinator or `halops cancel`, finds it there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from halops import names
from halops.artifact import Frozen
from halops.backends.kube.api import KubeApi, Object
from halops.backends.kube.observe import annotations_of
from halops.errors import NotFoundError

Say = Callable[[str], None]


class Freed(Frozen):
    """A Deployment that was scaled to zero, and the replicas that it had."""

    namespace: str
    deployment: str
    replicas: int


def freed_of(root: Object) -> Freed | None:
    """What a run has scaled to zero and not given back."""
    text = annotations_of(root).get(names.ANNOTATION_FREED)
    return Freed.model_validate_json(text) if text else None


def free(api: KubeApi, root: Object, server: str, say: Say) -> Freed | None:
    """Scale the server to zero; its pods finish what they answer first.

    Args:
        api: the runs' namespace.
        server: NAMESPACE/DEPLOYMENT.

    Returns what is to be given back; None if the server isn't there, or somebody else scaled it to zero.
    """
    namespace, _, deployment = server.partition("/")
    there = api.within(namespace)
    freed = freed_of(root)
    if freed is None:
        replicas = there.replicas(deployment)
        if not replicas:
            say(f"{server}: {'no such server' if replicas is None else 'at zero already'}; nothing to free")
            return None
        freed = Freed(namespace=namespace, deployment=deployment, replicas=replicas)
        _note(api, root, freed.model_dump_json())
    there.scale(deployment, 0)
    say(f"{server}: from {freed.replicas} to 0 replicas, until the GPU isn't needed any more")
    return freed


def give_back(api: KubeApi, freed: Freed, root: Object | None, say: Say) -> None:
    """Scale the server back, unless somebody did or it is gone; then forget about it.

    Args:
        root: the run's root, if it is still there.
    """
    there = api.within(freed.namespace)
    server = f"{freed.namespace}/{freed.deployment}"
    if there.replicas(freed.deployment) == 0:
        there.scale(freed.deployment, freed.replicas)
        say(f"{server}: back to {freed.replicas} replica{'s' if freed.replicas > 1 else ''}")
    if root:
        with contextlib.suppress(NotFoundError):  # it was deleted meanwhile
            _note(api, root, None)


def _note(api: KubeApi, root: Object, text: str | None) -> None:
    api.annotate("configmaps", root["metadata"]["name"], {names.ANNOTATION_FREED: text})

"""Following a run in the cluster: its stages as events, its pods' logs as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

from halops.backends.base import Listener
from halops.backends.kube.api import KubeApi, Object
from halops.errors import TransientError
from halops.runstate import RunStatus, StageStatus

POLL_SECONDS = 2.0
PATIENCE_SECONDS = 300.0  # with a cluster or a store that is away, before a follower gives up


def follow_run(read: Callable[[], RunStatus], listener: Listener) -> RunStatus:
    """Poll until the run is over, telling the listener what changed. Returns its last status.

    Raises TransientError when nothing could be read for PATIENCE_SECONDS.
    """
    last: dict[str, StageStatus] = {}
    read_at = time.monotonic()
    while True:
        try:
            status = read()
        except TransientError:
            if time.monotonic() - read_at > PATIENCE_SECONDS:
                raise
        else:
            read_at = time.monotonic()
            for stage in status.stages:
                _tell(last.get(stage.name), stage, listener)
                last[stage.name] = stage
            if status.state != "running":
                return status
        time.sleep(POLL_SECONDS)


def _tell(before: StageStatus | None, stage: StageStatus, listener: Listener) -> None:
    if before == stage:
        return
    if stage.state == "succeeded":
        listener(stage.name, {"kind": "succeeded" if before else "skipped", "seconds": stage.seconds})
    elif stage.state == "running" and (before is None or before.state != "running"):
        listener(stage.name, {"kind": "started"})
    if stage.progress and (before is None or before.progress != stage.progress):
        listener(stage.name, {"kind": "progress", **stage.progress})
    if stage.diagnosis and (before is None or before.diagnosis != stage.diagnosis) and stage.state != "failed":
        listener(stage.name, {"kind": "waiting", "message": stage.diagnosis})


def pod_lines(
    api: KubeApi, read_pods: Callable[[], list[Object]], *, follow: bool, alive: Callable[[], bool]
) -> Iterator[str]:
    """Log lines of the newest pod; with `follow`, of it and of those that come after it, while the run is alive."""
    pods = read_pods()
    if not follow:
        yield from api.log(pods[-1]["metadata"]["name"]) if pods else ()
        return
    seen = {pod["metadata"]["uid"] for pod in pods[:-1]}
    printed = 0
    while True:
        fresh = next((pod for pod in read_pods() if pod["metadata"]["uid"] not in seen), None)
        if fresh and fresh.get("status", {}).get("phase") != "Pending":
            for line in islice(api.log(fresh["metadata"]["name"], follow=True), printed, None):
                printed += 1  # where a broken connection takes it up again
                yield line
            if _over(read_pods(), fresh):
                seen.add(fresh["metadata"]["uid"])
                printed = 0
        elif not alive():
            return
        time.sleep(POLL_SECONDS)


def _over(pods: list[Object], pod: Object) -> bool:
    """Whether a pod has ended or is gone. A log can also stop because a connection did."""
    now = next((item for item in pods if item["metadata"]["uid"] == pod["metadata"]["uid"]), None)
    return now is None or now.get("status", {}).get("phase") in ("Succeeded", "Failed")

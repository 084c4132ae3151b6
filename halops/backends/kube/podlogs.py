"""A stage's pods' logs as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

from halops.backends.kube.api import KubeApi, Object

POLL_SECONDS = 2.0


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

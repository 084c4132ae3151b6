"""Promotion and rollback, as steps on two releases: NAME, which clients call, and NAME-canary beside it.

A promotion never has more pods than the two releases had: requests go to the canary's pods while NAME's own are
replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from halops.deploy.helm import Revision
from halops.errors import NotFoundError, StageError

Values = dict[str, Any]
CANARY = "-canary"


class Releases(Protocol):
    """What of helm is needed here."""

    def upgrade(self, release: str, chart: Path, values: Values, *, description: str = "") -> str: ...
    def values(self, release: str, revision: int | None = None) -> Values | None: ...
    def history(self, release: str) -> list[Revision]: ...
    def rollback(self, release: str, revision: int) -> str: ...
    def uninstall(self, release: str) -> str: ...


def canary_of(name: str) -> str:
    """The release beside NAME."""
    return name + CANARY


def digests(values: Mapping[str, Any]) -> tuple[str, str]:
    """Which files a release's values serve: model and adapter, by SHA-256."""
    return values.get("model", {}).get("sha256", ""), values.get("adapter", {}).get("sha256", "")


def run_of(values: Mapping[str, Any]) -> str:
    """The run that they are of."""
    return str(values.get("provenance", {}).get("run-id", "a file of no run"))


def track_of(values: Mapping[str, Any]) -> str:
    """Whose pods a release's Service sends requests to; empty for its own."""
    return str(values.get("service", {}).get("track", ""))


def promote(helm: Releases, name: str, chart: Path, say: Callable[[str], None]) -> str:
    """Make the canary's model NAME's. Returns the run's id. No request fails on the way.

    Interrupted anywhere, the same again goes on: until the end the canary is there and answers.

    Raises NotFoundError if there is no canary, or nothing to promote it over.
    """
    canary = canary_of(name)
    new, old = helm.values(canary), helm.values(name)
    if new is None:
        raise NotFoundError(f"there is no canary {canary}", remedy="halops deploy RUN --canary")
    if old is None:
        raise NotFoundError(f"there is no release {name} to promote it over", remedy="halops deploy RUN")
    run = run_of(new)
    if track_of(old) != canary and digests(old) != digests(new):
        say(f"requests to {name} go to {canary} from now on")
        helm.upgrade(name, chart, tracking(old, canary), description=f"requests go to {canary}, run {run}")
    if digests(old) != digests(new):
        say(f"{name}'s own pods get the model of {run}")
        # Nobody asks them now, so the old ones may end before the new ones begin: no third GPU is needed.
        moved = tracking(new, canary) | {"strategy": "Recreate"}
        helm.upgrade(name, chart, moved, description=f"model of {run}, not asked yet")
    say(f"requests to {name} go to its own pods again")
    helm.upgrade(name, chart, tracking(new, ""), description=f"promoted {run}")
    helm.uninstall(canary)
    return run


def tracking(values: Values, track: str) -> Values:
    """The same values, with requests going to that track's pods."""
    return values | {"service": values.get("service", {}) | {"track": track}}


def previous(helm: Releases, name: str) -> tuple[int, Values]:
    """The newest revision of NAME with another model than today's, that answered with its own pods.

    Raises NotFoundError if there is none.
    """
    current = helm.values(name)
    if current is None:
        raise NotFoundError(f"there is no release {name}", remedy="halops deploy RUN")
    for revision in helm.history(name)[1:]:
        values = helm.values(name, revision.number)
        if values is None or revision.status not in ("superseded", "deployed"):
            continue
        if digests(values) != digests(current) and not track_of(values):
            return revision.number, values
    raise NotFoundError(
        f"{name} has served no other model", remedy=f"`helm history {name}` lists what there was; halops deploy RUN"
    )


def rollback(helm: Releases, name: str) -> str:
    """Bring back the model before today's. Returns its run's id. Raises NotFoundError, StageError."""
    number, values = previous(helm, name)
    helm.rollback(name, number)
    found = helm.values(name)
    if found is None or digests(found) != digests(values):
        raise StageError(f"{name} did not go back to revision {number}", remedy=f"helm history {name}")
    return run_of(values)

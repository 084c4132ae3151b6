"""Promotion and rollback as steps, on releases kept in memory by the rules of Helm's own history."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from halops.deploy import releases
from halops.deploy.helm import Revision
from halops.errors import NotFoundError, StageError

CHART = Path("chart")


def values(run: str, **more: Any) -> dict[str, Any]:
    return {"model": {"sha256": run * 8}, "provenance": {"run-id": run}, "strategy": "RollingUpdate", **more}


@dataclass
class Memory:
    """Releases with all their revisions; `breaks` names the call that fails, once."""

    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    breaks: int = 0

    def _call(self, text: str) -> None:
        self.calls.append(text)
        if self.breaks == len(self.calls):
            raise StageError("helm upgrade: the pods did not become ready")

    def upgrade(self, release: str, chart: Path, given: dict[str, Any], *, description: str = "") -> str:
        self._call(f"upgrade {release}: {description}")
        self.kept.setdefault(release, []).append(given)
        return ""

    def values(self, release: str, revision: int | None = None) -> dict[str, Any] | None:
        found = self.kept.get(release)
        return None if not found else found[(revision or len(found)) - 1]

    def history(self, release: str) -> list[Revision]:
        rows = [Revision(number, "superseded", "") for number in range(1, len(self.kept.get(release, [])) + 1)]
        return rows[::-1]

    def rollback(self, release: str, revision: int) -> str:
        self._call(f"rollback {release} {revision}")
        self.kept[release].append(self.kept[release][revision - 1])
        return ""

    def uninstall(self, release: str) -> str:
        self._call(f"uninstall {release}")
        del self.kept[release]
        return ""


def two() -> Memory:
    return Memory({"ops": [values("old")], "ops-canary": [values("new", replicas=2)]})


def quiet(text: str) -> None:
    pass


def test_requests_never_go_to_pods_that_are_being_replaced() -> None:
    helm = two()
    assert releases.promote(helm, "ops", CHART, quiet) == "new"
    digests = [(releases.run_of(item), releases.track_of(item)) for item in helm.kept["ops"]]
    assert digests == [("old", ""), ("old", "ops-canary"), ("new", "ops-canary"), ("new", "")]
    assert helm.kept["ops"][2]["strategy"] == "Recreate"  # no third GPU
    assert helm.kept["ops"][3]["strategy"] == "RollingUpdate"
    assert helm.kept["ops"][3]["replicas"] == 2
    assert "ops-canary" not in helm.kept


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_promotion_that_was_interrupted_goes_on(step: int) -> None:
    helm = two()
    helm.breaks = step
    with pytest.raises(StageError):
        releases.promote(helm, "ops", CHART, quiet)
    assert "ops-canary" in helm.kept  # it answers until the end
    assert releases.promote(helm, "ops", CHART, quiet) == "new"
    last = helm.kept["ops"][-1]
    assert (releases.run_of(last), releases.track_of(last)) == ("new", "")
    assert "ops-canary" not in helm.kept
    between = [releases.track_of(item) for item in helm.kept["ops"][1:-1]]
    assert set(between) <= {"ops-canary", ""}
    moved = [item for item in helm.kept["ops"] if item["strategy"] == "Recreate"]
    assert all(releases.track_of(item) == "ops-canary" for item in moved)


def test_promotion_needs_both_releases() -> None:
    with pytest.raises(NotFoundError, match="no canary ops-canary"):
        releases.promote(Memory({"ops": [values("old")]}), "ops", CHART, quiet)
    with pytest.raises(NotFoundError, match="no release ops"):
        releases.promote(Memory({"ops-canary": [values("new")]}), "ops", CHART, quiet)


def test_rollback_passes_over_revisions_of_the_same_model_and_of_a_switched_service() -> None:
    helm = two()
    releases.promote(helm, "ops", CHART, quiet)
    number, found = releases.previous(helm, "ops")
    assert (number, releases.run_of(found)) == (1, "old")
    assert releases.rollback(helm, "ops") == "old"
    assert releases.previous(helm, "ops")[0] == 4  # and forward again


def test_there_is_nothing_to_go_back_to() -> None:
    with pytest.raises(NotFoundError, match="served no other model"):
        releases.previous(Memory({"ops": [values("one"), values("one")]}), "ops")
    with pytest.raises(NotFoundError, match="no release"):
        releases.previous(Memory(), "ops")


def test_an_adapter_is_part_of_what_is_served() -> None:
    helm = Memory({"ops": [values("base", adapter={"sha256": "a"}), values("base", adapter={"sha256": "b"})]})
    assert releases.previous(helm, "ops")[0] == 1

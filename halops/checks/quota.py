"""Pure: the namespace's quotas against what the stages ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from halops.checks.base import Check, fail, ok, skip, warn
from halops.checks.nodes import amounts_of, shown
from halops.checks.view import Object
from halops.manifests.needs import Needs
from halops.quantities import parse_quantity


class Limit(NamedTuple):
    """One line of a quota beside the largest stage: amounts in cores, bytes and pieces."""

    quota: str
    key: str
    resource: str
    most: float
    used: float
    asked: float
    stage: str

    def __str__(self) -> str:
        used, most, asked = (shown(self.resource, amount) for amount in (self.used, self.most, self.asked))
        return f"{self.quota}: {self.key}: {used} of {most} in use, {self.stage} asks {asked}"


def quota(found: Sequence[Object] | None, needs: dict[str, Needs]) -> Check:
    """Whether the namespace's quotas leave room for the largest stage."""
    if found is None:
        return skip("quota", "we may not look at quotas")
    if not found:
        return ok("quota", "none is set")
    if any("limits.cpu" in (item.get("spec", {}).get("hard") or {}) for item in found):
        said = "it counts limits.cpu, and stages have none: a throttled one only takes longer"
        return warn("quota", said, "count requests.cpu instead, or set a default limit by a LimitRange")
    limits = [limit for item in found for limit in _limits(item, needs)]
    never = [limit for limit in limits if limit.asked > limit.most]
    if never:
        remedy = "raise the ResourceQuota (k8s/overlays), or ask for less in cluster.resources"
        return fail("quota", "; ".join(map(str, never)), remedy)
    waits = [limit for limit in limits if limit.asked > limit.most - limit.used]
    if waits:
        return warn("quota", "; ".join(map(str, waits)), "the run waits until others end")
    return ok("quota", f"room for every stage in {', '.join(item['metadata']['name'] for item in found)}")


def _limits(item: Object, needs: dict[str, Needs]) -> Iterator[Limit]:
    hard = item.get("spec", {}).get("hard") or {}
    used = item.get("status", {}).get("used") or {}
    for resource, asked, stage in _largest(needs):
        for key in (resource, f"requests.{resource}", f"limits.{resource}"):
            if key in hard:
                amounts = parse_quantity(hard[key]), parse_quantity(used.get(key, 0))
                yield Limit(item["metadata"]["name"], key, resource, *amounts, asked, stage)


def _largest(needs: dict[str, Needs]) -> Iterator[tuple[str, float, str]]:
    """Resource, the largest amount that a stage asks, and the stage."""
    table = {stage: amounts_of(need) for stage, need in needs.items()}
    for resource in sorted({name for amounts in table.values() for name in amounts}):
        asked = {stage: amounts.get(resource, 0.0) for stage, amounts in table.items()}
        stage = max(asked, key=lambda name: asked[name])
        yield resource, asked[stage], stage

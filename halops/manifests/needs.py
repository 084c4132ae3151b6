"""What each stage's container asks of a node: the estimate of `halops.estimate`, or what the profile says."""

from __future__ import annotations

import math

from halops.artifact import Frozen
from halops.estimate import estimate_run
from halops.memory import ESTIMATE_HEADROOM
from halops.names import COORDINATOR, STAGES
from halops.profile import Profile
from halops.runspec import RunSpec
from halops.sections import Dimensions, StageResources

MIB = 1 << 20
CPUS = {"base": "1", "data": "1", "train": "2", "merge": "1", "convert": "2", "verify": "2"}  # requests, not limits
MEMORY_FLOOR, DISK_FLOOR = 512 * MIB, 1024 * MIB  # an interpreter with its libraries; logs and caches
SHORTEST_DEADLINE, DEADLINE_FACTOR = (
    2 * 3600,
    6,
)  # seconds; times the estimate: for a stage that hangs, not for a slow one


class Needs(Frozen):
    """One stage's container: Kubernetes quantities, whole GPUs, and seconds until it counts as hanging."""

    cpu: str
    memory: str
    ephemeral_storage: str
    gpus: int = 0
    deadline_seconds: int | None = None


COORDINATOR_NEEDS = Needs(cpu="100m", memory="256Mi", ephemeral_storage="256Mi")


def stage_needs(
    spec: RunSpec,
    dims: Dimensions,
    *,
    rows: int | None = None,
    max_cost: float | None = None,
    price: float | None = None,
) -> dict[str, Needs]:
    """Needs of a run by stage, and the coordinator's; see `profile_needs`."""
    return profile_needs(spec.profile, dims, rows=rows, max_cost=max_cost, price=price)


def profile_needs(
    profile: Profile,
    dims: Dimensions,
    *,
    rows: int | None = None,
    max_cost: float | None = None,
    price: float | None = None,
) -> dict[str, Needs]:
    """Needs by stage, and the coordinator's.

    Args:
        rows: of the dataset, where they are known.
        max_cost: what the GPU stage may cost; with `price` (of an hour) it bounds that stage's deadline.
    """
    needs: dict[str, Needs] = {COORDINATOR: COORDINATOR_NEEDS}
    for estimate in estimate_run(profile, dims, rows):
        if estimate.stage not in STAGES:
            continue
        stage = estimate.stage
        given = profile.cluster.resources.get(stage, StageResources())
        deadline = max(SHORTEST_DEADLINE, round(DEADLINE_FACTOR * (estimate.seconds or 0)))
        gpus = _gpus(profile, stage)
        if gpus and max_cost is not None and price:
            deadline = min(deadline, max(60, round(3600 * max_cost / price)))
        needs[stage] = Needs(
            cpu=given.cpu or CPUS[stage],
            memory=given.memory or _mebibytes(estimate.ram_bytes, MEMORY_FLOOR),
            ephemeral_storage=given.ephemeral_storage or _mebibytes(estimate.disk_bytes, DISK_FLOOR),
            gpus=gpus,
            deadline_seconds=deadline,
        )
    return needs


def _gpus(profile: Profile, stage: str) -> int:
    if stage == "train":
        return profile.cluster.gpu.count
    return 1 if stage == "verify" and profile.verify.device == "gpu" else 0


def _mebibytes(estimated: int, floor: int) -> str:
    return f"{math.ceil(max(floor, ESTIMATE_HEADROOM * estimated) / MIB)}Mi"

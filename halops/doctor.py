"""The pre-flight list: everything that a run of a profile needs of this machine, its data and its store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from halops.artifact import canonical_json
from halops.checks import cluster, gpu, host, inputs, smi, software
from halops.checks.base import Check, fail, skip, softened
from halops.checks.view import ClusterView
from halops.errors import HalopsError
from halops.estimate import StageEstimate, converted_bytes, estimate_run, kept_bytes
from halops.names import MANIFEST, STATE_FOLDER
from halops.profile import Profile
from halops.runspec import BaseRef
from halops.site import Site
from halops.store.base import Store


@dataclass(frozen=True)
class Patient:
    """What is to be looked at.

    Args:
        folder: the site's folder; its state folder holds scratch and, by default, the store.
        data: path or URI of the rows.
        open_store: opens the store; may raise what opening raises.
        site: the place's settings; a run on a cluster needs some of them.
        open_cluster: looks at the cluster; may raise what connecting raises. Without it the cluster isn't looked at.
    """

    profile: Profile
    folder: Path
    data: str
    open_store: Callable[[], Store]
    site: Site | None = None
    open_cluster: Callable[[], ClusterView] | None = None

    @property
    def local(self) -> bool:
        """Whether the stages run on this machine."""
        return self.profile.cluster.backend == "local"


def examine(patient: Patient) -> Iterator[Check]:
    """Every check in turn, as soon as it is made. Raises nothing that a user can cause."""
    estimates = _estimates(patient)
    yield from _gpu(patient, estimates)
    yield from _software(patient)
    yield from inputs.data(patient.data, patient.profile.data.expected_examples)
    found, store = inputs.store(patient.open_store)
    yield found
    source = inputs.model(patient.profile.model.uri, _mirrored(patient, store), inputs.reach_model)
    yield from [source] if patient.local else softened([source])
    yield from _machine(patient, estimates, store)
    if not patient.local:
        yield from _cluster(patient, store)


def worst(checks: Sequence[Check]) -> str:
    """`fail` if anything fails, else `warn` if anything warns, else `ok`."""
    statuses = {check.status for check in checks}
    return next((status for status in ("fail", "warn") if status in statuses), "ok")


def _estimates(patient: Patient) -> list[StageEstimate]:
    dims = patient.profile.model.dimensions
    return estimate_run(patient.profile, dims, cores=host.usable_cores()) if dims else []


def _gpu(patient: Patient, estimates: list[StageEstimate]) -> list[Check]:
    """A profile for a cluster trains on a node: what this machine has doesn't stop it."""
    wanted = patient.profile.cluster.gpu
    needed = max((item.vram_bytes for item in estimates), default=0)
    seen = smi.probe() if wanted.count else smi.Seen()
    if not patient.local and wanted.count and seen.absent:
        return [skip(gpu.PRESENT, "none on this machine; training runs on a node of the cluster")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    checks = gpu.decide(seen, wanted, needed, torch_cuda=gpu.torch_cuda_version(), visible=visible)
    return checks if patient.local else softened(checks)


def _software(patient: Patient) -> list[Check]:
    if not patient.local:
        return [skip("packages", "each stage's image has its own")]
    return [*software.packages(gpu=patient.profile.cluster.gpu.count > 0), software.llama_cpp()]


def _machine(patient: Patient, estimates: list[StageEstimate], store: Store | None) -> Iterator[Check]:
    serving = patient.profile.serving
    if not patient.local:
        yield skip("disk, RAM, port", "the nodes' own; `halops plan` says what each stage needs")
        return
    if estimates:
        yield _disk(patient, estimates, store)
        stage = max((item for item in estimates if item.stage != "serving"), key=lambda item: item.ram_bytes)
        yield host.ram(host.available_memory(), stage.ram_bytes, stage.stage)
    else:
        yield skip("disk, RAM", "the need isn't known without model.dimensions in the profile")
    yield host.cores(host.usable_cores(), serving.threads)
    yield host.port(serving.host, serving.port)


def _cluster(patient: Patient, store: Store | None) -> Iterator[Check]:
    """What a run on a cluster needs of the site's settings, and of the cluster."""
    if patient.site:
        yield cluster.images(patient.site.images)
        s3 = patient.site.s3
        if store:
            yield cluster.reachable_store(store.uri, s3.endpoint_url if s3 else None)
    if patient.site is None or patient.open_cluster is None:
        return
    try:
        view = patient.open_cluster()
    except HalopsError as error:
        yield fail("cluster", error.what, error.remedy or "set KUBECONFIG")
        return
    yield from cluster.examine(view, patient.profile, patient.site, store)


def _disk(patient: Patient, estimates: list[StageEstimate], store: Store | None) -> Check:
    """Scratch for the largest stage; with a store on the same disk, all that is kept and one stage's output twice."""
    folder = patient.folder / STATE_FOLDER
    stage = max(estimates, key=lambda item: item.disk_bytes)
    needed, what = stage.disk_bytes, stage.stage
    dims = patient.profile.model.dimensions
    if dims and (store is None or store.uri.startswith("file://")):
        needed, what = kept_bytes(patient.profile, dims) + converted_bytes(patient.profile, dims), "a whole run"
    return host.disk("disk", folder, host.free_disk(folder), needed, what)


def _mirrored(patient: Patient, store: Store | None) -> bool:
    """Whether the store holds the pinned base. An unpinned name can't be looked up."""
    if store is None:
        return False
    return store.size(f"{BaseRef(uri=patient.profile.model.uri).prefix}/{MANIFEST}") is not None


def to_json(checks: Sequence[Check]) -> bytes:
    """All checks as canonical JSON."""
    return canonical_json([check.model_dump(mode="json") for check in checks])

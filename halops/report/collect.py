"""Reads a run's stored files into a `ReportData`. A file that is missing or torn leaves a gap, never an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from halops.artifact import Manifest
from halops.errors import HalopsError
from halops.names import FAST_STAGES, RUNS, SUBMITTED
from halops.report.lineage import lineage
from halops.report.model import Answer, FileRow, HistoryRow, Probe, ReportData, StageRow, Verdict
from halops.runspec import RunSpec
from halops.runstate import RunStatus, load_spec, run_manifests, run_status
from halops.store.base import Store

Row = TypeVar("Row", bound=BaseModel)
MAX_BYTES = 64 * 2**20  # a history or answers file larger than this isn't ours


def collect(store: Store, run_id: str, *, alive: bool = False) -> ReportData:
    """Everything that a report of `run_id` shows.

    Args:
        alive: whether a process works on the run now; only a backend can tell.

    Raises NotFoundError if there is no such run, StoreUnavailable if the store can't be read.
    """
    spec = load_spec(store, run_id)
    status = run_status(store, spec, alive=alive)
    done = {stage.name for stage in status.stages if stage.state == "succeeded"}
    manifests = {stage: item for stage, item in run_manifests(store, spec).items() if stage in {*done, *FAST_STAGES}}
    reader = _Reader(store, manifests)
    return ReportData(
        run_id=run_id,
        name=spec.name,
        created=_created(store, run_id, manifests),
        verdict=_verdict(status),
        stages=tuple(_stage_row(stage) for stage in status.stages),
        metrics={stage.name: dict(stage.metrics) for stage in status.stages if stage.metrics},
        history=tuple(reader.rows("train", "history.jsonl", HistoryRow)),
        files=tuple(_files(manifests)),
        lineage=lineage(spec, manifests),
        probes=tuple(reader.rows("verify", "probes.jsonl", Probe)),
        answers=tuple(reader.rows("verify", "answers.jsonl", Answer)),
        statistics=reader.document("data", "stats.json"),
        checks=reader.document("verify", "verify.json"),
        profile_yaml=_profile_yaml(spec),
        spec=spec.model_dump(mode="json"),
        problems=tuple(reader.problems),
    )


class _Reader:
    """Reads stages' small output files by the keys in their manifests."""

    def __init__(self, store: Store, manifests: dict[str, Manifest]) -> None:
        self._store, self._manifests = store, manifests
        self.problems: list[str] = []

    def _bytes(self, stage: str, name: str) -> bytes | None:
        manifest = self._manifests.get(stage)
        entry = next((file for file in manifest.files if _base_name(file.path) == name), None) if manifest else None
        if entry is None:
            return None
        if entry.size > MAX_BYTES:
            self.problems.append(f"{stage}/{entry.path} is too large to show")
            return None
        try:
            data = self._store.read(entry.key)
        except HalopsError as error:
            self.problems.append(f"{stage}/{entry.path} can't be read: {error.what}")
            return None
        if data is None:
            self.problems.append(f"{stage}/{entry.path} is gone from the store")
        return data

    def document(self, stage: str, name: str) -> dict[str, Any]:
        """A JSON object, or an empty one."""
        try:
            value = json.loads(self._bytes(stage, name) or b"{}")
        except ValueError:
            self.problems.append(f"{stage}/{name} is not readable JSON")
            return {}
        return value if isinstance(value, dict) else {}

    def rows(self, stage: str, name: str, kind: type[Row]) -> list[Row]:
        """The rows of a JSONL file that can be read; the rest is counted as one problem."""
        rows, bad = [], 0
        for line in (self._bytes(stage, name) or b"").splitlines():
            if not line.strip():
                continue
            try:
                rows.append(kind.model_validate(json.loads(line)))
            except (ValueError, ValidationError):
                bad += 1
        if bad:
            self.problems.append(f"{stage}/{name}: {bad} line{'s' if bad > 1 else ''} could not be read")
        return rows


def _stage_row(stage: Any) -> StageRow:
    return StageRow(name=stage.name, state=stage.state, seconds=stage.seconds, diagnosis=stage.diagnosis)


def _verdict(status: RunStatus) -> Verdict:
    if status.state == "succeeded":
        return Verdict.VERIFIED
    return Verdict.FAILED if status.state == "failed" else Verdict.UNFINISHED


def _created(store: Store, run_id: str, manifests: dict[str, Manifest]) -> str:
    """When the run was submitted, or else when its first stage began."""
    try:
        document = json.loads(store.read(f"{RUNS}/{run_id}/{SUBMITTED}") or b"{}")
    except ValueError:
        document = {}
    own = [manifest.started for stage, manifest in manifests.items() if stage != "base"]
    return str(document.get("time") or min(own, default=""))


def _files(manifests: dict[str, Manifest]) -> Iterator[FileRow]:
    for stage, manifest in manifests.items():
        for file in manifest.files:
            yield FileRow(stage=stage, path=file.path, size=file.size, sha256=file.sha256)


def _profile_yaml(spec: RunSpec) -> str:
    document = spec.profile.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)


def _base_name(path: str) -> str:
    return path.rpartition("/")[2]

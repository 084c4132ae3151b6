"""What a report shows: plain values, read once from a run's stored files. Anything may be missing."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from halops.artifact import Frozen, MetricValue
from halops.names import State


class Verdict(StrEnum):
    """How a run stands, in one word."""

    VERIFIED = "verified"
    FAILED = "failed"
    UNFINISHED = "unfinished"


class Lenient(BaseModel):
    """A row of a stage's output: keys that a report doesn't show are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StageRow(Frozen):
    """One stage and its wall time in seconds."""

    name: str
    state: State = "pending"
    seconds: float | None = None
    diagnosis: str | None = None


class HistoryRow(Lenient):
    """One logged training step. A value that is missing or not finite is None."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None

    @field_validator("loss", "learning_rate", "grad_norm", "tokens_per_second")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None


class FileRow(Frozen):
    """One stored file: size in bytes, SHA-256 as hex."""

    stage: str
    path: str
    size: int
    sha256: str


class LineageRow(Frozen):
    """One link of the chain: what it is, its SHA-256, and what it was made from."""

    what: str
    digest: str
    source: str = ""


class Probe(Lenient):
    """One probe: the question, what a right answer has, and both models' answers."""

    id: str = ""
    domain: str = ""
    question: str = ""
    expect: Any = None
    base: str | None = None
    tuned: str | None = None
    base_ok: bool | None = None
    tuned_ok: bool | None = None


class Answer(Lenient):
    """One held-out question with the row's own answer and both models'."""

    id: str = ""
    question: str = ""
    expected: str = ""
    base: str | None = None
    tuned: str | None = None


class ReportData(Frozen):
    """Everything a report needs. `metrics` is by stage, with the keys of `halops.metrics`."""

    run_id: str
    name: str
    created: str = ""
    verdict: Verdict = Verdict.UNFINISHED
    stages: tuple[StageRow, ...] = ()
    metrics: dict[str, dict[str, MetricValue]] = {}
    history: tuple[HistoryRow, ...] = ()
    files: tuple[FileRow, ...] = ()
    lineage: tuple[LineageRow, ...] = ()
    probes: tuple[Probe, ...] = ()
    answers: tuple[Answer, ...] = ()
    statistics: dict[str, Any] = {}
    checks: dict[str, Any] = {}
    profile_yaml: str = ""
    spec: dict[str, Any] = {}
    problems: tuple[str, ...] = ()

    def number(self, stage: str, key: str) -> float | None:
        """A stage's metric as a finite number, or None."""
        value = self.metrics.get(stage, {}).get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)

    @property
    def seconds(self) -> float:
        """Wall time of all stages that have one."""
        return sum(stage.seconds or 0 for stage in self.stages)

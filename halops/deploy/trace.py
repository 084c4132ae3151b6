"""From a serving pod back to the rows: what its annotations promise, held against the run's own manifests."""

from __future__ import annotations

from dataclasses import dataclass

from halops.report.collect import collect
from halops.report.model import LineageRow
from halops.store.base import Store

CHECKED = {
    "gguf-sha256": "GGUF", "adapter-gguf-sha256": "adapter's GGUF", "dataset-sha256": "dataset",
    "merge-manifest-sha256": "merged model",
}  # fmt: skip


@dataclass(frozen=True)
class PodTrace:
    """A pod's chain. `problems` names each promise that the store's manifests don't keep."""

    pod: str
    run: str
    rows: tuple[LineageRow, ...]
    problems: tuple[str, ...]


def trace_pod(store: Store, pod: str, notes: dict[str, str]) -> PodTrace:
    """The chain of a pod.

    Args:
        notes: its annotations below `halops.dev/`.

    Raises NotFoundError if its run is not in this store.
    """
    run = notes.get("run-id", "")
    served = LineageRow(what=f"pod {pod}", digest=notes.get("gguf-sha256", ""), source="GGUF, by its annotations")
    if not run:
        return PodTrace(pod, "", (served,), ("it serves a file of no run",))
    rows = collect(store, run).lineage
    known = {row.digest for row in rows}
    broken = tuple(
        f"its {what} {notes[key][:16]} is not the run's" for key, what in CHECKED.items()
        if notes.get(key) and notes[key] not in known
    )  # fmt: skip
    unverified = ("its run was not verified when it was deployed",) if notes.get("verified") == "no" else ()
    return PodTrace(pod, run, (served, *reversed(rows)), (*broken, *unverified))

"""Run specs for tests of single stages."""

from __future__ import annotations

from halops.profile import Profile
from halops.runspec import BaseRef, DatasetRef, RunSpec


def base_spec(uri: str) -> RunSpec:
    """A run whose base is the pinned `uri`."""
    return RunSpec(
        name="demo",
        profile=Profile(),
        base=BaseRef(uri=uri),
        dataset=DatasetRef(uri="rows.jsonl", sha256="0" * 64, size=1),
        llama_cpp="none",
    )

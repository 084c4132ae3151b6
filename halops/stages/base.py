"""Stage base: mirror the base model into the store, checked, with its origin and dimensions beside it."""

from __future__ import annotations

import json

from halops.models.dimensions import read_dimensions
from halops.models.source import fetch_model
from halops.stages.context import Metrics, StageContext

RECORD = "base.json"


def run(context: StageContext) -> Metrics:
    """Fetch the model that the spec pins. Raises what `halops.models.source.fetch_model` does."""
    uri = context.spec.base.uri
    context.progress(f"fetching {uri.partition('#')[0]}")
    folder = fetch_model(uri, context.output, context.progress)
    record = {"uri": uri, "revision": revision_of(uri), "dimensions": read_dimensions(folder).model_dump(mode="json")}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return {}


def revision_of(uri: str) -> str:
    """The pin alone: a commit, a version, or a digest."""
    for mark in ("#sha256=", "==", "@"):
        if mark in uri:
            return uri.rpartition(mark)[2]
    return ""

"""base-gguf: the base model as a GGUF file of the type that is served, so that an adapter can be put on top of it."""

from __future__ import annotations

from halops.stages.context import Metrics, StageContext
from halops.stages.convert import converter_of, write_types, written


def run(context: StageContext) -> Metrics:
    """base-TYPE.gguf, TYPE being `serving.file`. Input: `base/`. Raises as convert does."""
    write_types(converter_of(context), context.inputs / "base", (context.spec.profile.serving.file,), "base", context)
    return written(context)

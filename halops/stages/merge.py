"""The merge stage: base and adapter in, a model folder out. Needs numpy, no torch."""

from __future__ import annotations

from halops.merge.merge import merge_adapter
from halops.stages.context import Metrics, StageContext


def run(context: StageContext) -> Metrics:
    """`inputs/base` and `inputs/train/adapter` -> a Hugging Face model folder with merge.json."""
    settings = context.spec.profile.merge
    return merge_adapter(
        context.inputs / "base",
        context.inputs / "train" / "adapter",
        context.output,
        dtype=settings.dtype,
        max_shard_bytes=settings.max_shard_bytes,
        progress=context.progress,
        stop=context.stop,
    )

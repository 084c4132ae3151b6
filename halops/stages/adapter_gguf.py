"""adapter-gguf: the trained adapter as a GGUF LoRA, as soon as it is there."""

from __future__ import annotations

from halops.stages.context import Metrics, StageContext
from halops.stages.convert import converter_of, write_adapter, written


def run(context: StageContext) -> Metrics:
    """NAME-adapter-f16.gguf. Inputs: `train/adapter/`, `base/` (config and tokenizer). Raises as convert does."""
    write_adapter(converter_of(context), context)
    return written(context)

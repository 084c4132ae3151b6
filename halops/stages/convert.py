"""convert: the merged model to GGUF files of each configured type, and the adapter to a GGUF LoRA."""

from __future__ import annotations

import json
from pathlib import Path

from halops.llamacpp import filetypes
from halops.llamacpp.convert import Converter, check_template
from halops.llamacpp.toolchain import find
from halops.stages.context import Metrics, StageContext


def run(context: StageContext) -> Metrics:
    """NAME-TYPE.gguf for each of `convert.types`, and NAME-adapter-f16.gguf if `convert.adapter`.

    Inputs: `merge/`, `train/adapter/`, `base/` (config and tokenizer only).

    Raises:
        HostError: llama.cpp isn't built, or the disk is too small.
        StageError: the converter or the quantizer failed.
        VerificationError: the chat template didn't come along.
    """
    settings = context.spec.profile.convert
    types = settings.types
    log = context.scratch / "convert.log"
    converter = Converter(find(), log, context.progress, context.stop)
    merged = context.inputs / "merge"
    source = _source(converter, merged, types, context)
    for kind in types:
        output = context.output / f"{settings.name}-{kind}.gguf"
        if output == source:
            continue
        if kind in filetypes.DIRECT:
            converter.convert_hf(merged, output, kind, name=settings.name)
        else:
            converter.quantize(source, output, kind)
    for path in context.output.glob("*.gguf"):
        check_template(path, merged)
    if settings.adapter:
        adapter = context.output / f"{settings.name}-adapter-f16.gguf"
        converter.convert_lora(context.inputs / "train" / "adapter", context.inputs / "base", adapter)
    files = list(context.output.glob("*.gguf"))
    return {"gguf_files": len(files), "bytes_written": sum(path.stat().st_size for path in files)}


def _source(converter: Converter, merged: Path, types: tuple[str, ...], context: StageContext) -> Path:
    """The unquantized file that the others are made from: an output if it is asked for, else in scratch.

    It has the merged model's own 16-bit type, so that nothing is rounded twice.
    """
    kind = "bf16" if merged_dtype(merged) == "bfloat16" else "f16"
    name = context.spec.profile.convert.name
    folder = context.output if kind in types else context.scratch
    source = folder / f"{name}-{kind}.gguf"
    if kind in types or any(other not in filetypes.DIRECT for other in types):
        converter.convert_hf(merged, source, kind, name=name)
    return source


def merged_dtype(model: Path) -> str:
    """The dtype that a model folder's config names."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float16")

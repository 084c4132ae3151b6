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
    converter = converter_of(context)
    write_types(converter, context.inputs / "merge", settings.types, settings.name, context)
    if settings.adapter:
        write_adapter(converter, context)
    return written(context)


def converter_of(context: StageContext) -> Converter:
    """llama.cpp's programs, with this stage's log, progress and stop."""
    return Converter(find(), context.scratch / "convert.log", context.progress, context.stop)


def write_types(converter: Converter, model: Path, types: tuple[str, ...], name: str, context: StageContext) -> None:
    """A model folder as NAME-TYPE.gguf in the output, for each type."""
    source = _source(converter, model, types, name, context)
    for kind in types:
        output = context.output / f"{name}-{kind}.gguf"
        if output == source:
            continue
        if kind in filetypes.DIRECT:
            converter.convert_hf(model, output, kind, name=name)
        else:
            converter.quantize(source, output, kind)
    for path in context.output.glob("*.gguf"):
        check_template(path, model)


def write_adapter(converter: Converter, context: StageContext) -> None:
    """NAME-adapter-f16.gguf from the inputs `train/adapter/` and `base/`."""
    output = context.output / f"{context.spec.profile.convert.name}-adapter-f16.gguf"
    converter.convert_lora(context.inputs / "train" / "adapter", context.inputs / "base", output)


def written(context: StageContext) -> Metrics:
    """How many files, and their bytes."""
    files = list(context.output.glob("*.gguf"))
    return {"gguf_files": len(files), "bytes_written": sum(path.stat().st_size for path in files)}


def _source(converter: Converter, model: Path, types: tuple[str, ...], name: str, context: StageContext) -> Path:
    """The unquantized file that the others are made from: an output if it is asked for, else in scratch.

    It has the model's own 16-bit type, so that nothing is rounded twice.
    """
    kind = "bf16" if model_dtype(model) == "bfloat16" else "f16"
    folder = context.output if kind in types else context.scratch
    source = folder / f"{name}-{kind}.gguf"
    if kind in types or any(other not in filetypes.DIRECT for other in types):
        converter.convert_hf(model, source, kind, name=name)
    return source


def model_dtype(model: Path) -> str:
    """The dtype that a model folder's config names."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float16")

"""Hugging Face folders and adapters to GGUF, by llama.cpp's own converter and quantizer. No network is used."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halops.errors import HostError, ModelError, VerificationError
from halops.llamacpp import process
from halops.llamacpp.filetypes import FILE_TYPES
from halops.llamacpp.gguf_file import CHAT_TEMPLATE, read_metadata
from halops.llamacpp.lock import locked
from halops.llamacpp.toolchain import Toolchain
from halops.names import cache_folder
from halops.progress import Progress

SPARE = 64_000_000  # bytes: tokenizer, metadata, and what else is written meanwhile
REPORT_EVERY = 0.5  # seconds
_WRITING = re.compile(r"Writing:\s+(\d+)%")
_QUANTIZED = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


@dataclass(frozen=True)
class Converter:
    """Runs the converter and the quantizer; their output is appended to `log`.

    Every file is written under a temporary name and renamed when it is whole.

    Raises, from each method: HostError (disk full, a program that can't run), StageError (a program failed; with the
    last lines of its output), Interrupted.
    """

    tools: Toolchain
    log: Path
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event | None = None

    def convert_hf(self, model: Path, output: Path, outtype: str, *, name: str) -> None:
        """A Hugging Face folder to one GGUF file.

        Args:
            model: folder with config, tokenizer and safetensors.
            outtype: f32, f16, bf16 or q8_0.
            name: general.name in the file. It is always given, since the loader reads meaning into it.

        Raises ModelError if the folder isn't a model.
        """
        check_model_folder(model)
        require_space(output.parent, gguf_bytes(weight_bytes(model), outtype), f"writing {output.name}")
        argv = self._script("convert_hf_to_gguf.py", model, "--outtype", outtype, "--model-name", name)
        self._write(argv, output, f"writing {output.name}", _WRITING)

    def quantize(self, source: Path, output: Path, kind: str) -> None:
        """An f16, bf16 or f32 GGUF file to any of llama-quantize's file types."""
        size = source.stat().st_size
        require_space(output.parent, gguf_bytes(size, kind), f"writing {output.name}")
        partial = output.with_name(f"{output.name}.part")
        argv: list[str | Path] = [self.tools.quantize, source, partial, kind.upper(), str(process.usable_cores())]
        self._run(argv, partial, output, f"quantizing to {kind}", _QUANTIZED)

    def convert_lora(self, adapter: Path, base: Path, output: Path) -> None:
        """A PEFT adapter to a GGUF LoRA in f16.

        Args:
            adapter: folder with adapter_config.json and adapter_model.safetensors.
            base: folder with the base's config.json and tokenizer; no weights are needed.
        """
        if not (adapter / "adapter_model.safetensors").is_file():
            raise ModelError("no adapter: adapter_model.safetensors is missing", where=str(adapter))
        argv = self._script("convert_lora_to_gguf.py", adapter, "--base", base, "--outtype", "f16")
        self._write(argv, output, f"writing {output.name}", _WRITING)

    def _script(self, name: str, *arguments: str | Path) -> list[str | Path]:
        return [sys.executable, self.tools.script(name), *arguments]

    def _write(self, argv: Sequence[str | Path], output: Path, what: str, pattern: re.Pattern[str]) -> None:
        partial = output.with_name(f"{output.name}.part")
        self._run([*argv, "--outfile", partial], partial, output, what, pattern)

    def _run(
        self, argv: Sequence[str | Path], partial: Path, output: Path, what: str, pattern: re.Pattern[str]
    ) -> None:
        self.progress(what)
        report = _reporter(self.progress, what, pattern)
        try:
            process.run(
                argv, log=self.log, what=what, env=process.offline_environment(), on_line=report, stop=self.stop
            )
            partial.rename(output)
        finally:
            partial.unlink(missing_ok=True)


def _reporter(progress: Progress, what: str, pattern: re.Pattern[str]) -> Callable[[str], None]:
    """Turns `Writing: 21%` and `[ 12/ 272]` into progress events, at most two a second and the last."""
    last = 0.0

    def report(line: str) -> None:
        nonlocal last
        if not (match := pattern.search(line)):
            return
        done, total = (int(match[1]), int(match[2])) if match.lastindex == 2 else (int(match[1]), 100)
        if done == total or time.monotonic() - last > REPORT_EVERY:
            last = time.monotonic()
            progress(what, done=done, total=total, unit="%" if match.lastindex == 1 else "tensors")

    return report


def check_model_folder(model: Path) -> None:
    """Raises ModelError unless the folder has a config and safetensors: the converter would take a pickle."""
    if not (model / "config.json").is_file():
        raise ModelError("not a model folder: config.json is missing", where=str(model))
    if not any(model.glob("*.safetensors")):
        raise ModelError("the model folder has no .safetensors file", where=str(model))


def check_template(gguf: Path, model: Path) -> None:
    """The GGUF's chat template is the model folder's, byte for byte. Raises VerificationError."""
    expected = chat_template(model)
    found = read_metadata(gguf).get(CHAT_TEMPLATE)
    if expected is not None and found != expected:
        raise VerificationError(
            "the chat template in the GGUF file isn't the model's" if found else "the GGUF file has no chat template",
            where=f"{gguf.name}: {CHAT_TEMPLATE}",
            remedy=f"compare it with {model.name}/chat_template.jinja",
        )


def chat_template(model: Path) -> str | None:
    """The template of a model folder: chat_template.jinja, else tokenizer_config.json's, else None."""
    file = model / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = model / "tokenizer_config.json"
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return template if isinstance(template, str) else None


def weight_bytes(model: Path) -> int:
    """Bytes that the folder's weights take in 16 bits: of all shards, half of them if they are in 32 bits."""
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return size // 2 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else size


def gguf_bytes(size_16_bits: int, kind: str) -> int:
    """About how large a file of that type becomes, from the size in 16 bits; an upper bound for small models."""
    return round(size_16_bits * FILE_TYPES.get(kind.lower(), 16) / 16)


def require_space(folder: Path, size: int, what: str) -> None:
    """Raises HostError if fewer than `size` bytes and a margin are free."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise HostError(
            f"{what} needs {(size + SPARE) / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            where=str(folder),
            remedy="free some space, or set HALOPS_WORK to a larger disk",
        )


def base_gguf(base: Path, digest: str, converter: Converter) -> Path:
    """The base model as an F16 GGUF file in the user's cache; made if it isn't there.

    Args:
        base: the base's Hugging Face folder.
        digest: names the base (`BaseRef.digest`).

    Raises what `Converter.convert_hf` raises.
    """
    tag = converter.tools.identity.replace("+", "-")
    output = cache_folder() / "gguf" / f"{digest}-{tag}-f16.gguf"
    with locked(output, lambda: converter.progress("waiting for another process that converts the base model")):
        if not output.is_file():
            converter.convert_hf(base, output, "f16", name="base")
    return output

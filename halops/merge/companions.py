"""The files beside the weights: config, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.merge.cast import Dtype

CONFIG: Final = "config.json"
TEMPLATE: Final = "chat_template.jinja"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
# Copied byte for byte where the base has them. No *.py: a model folder's code is never run, nor handed on.
COPIED: Final = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
    "*.tiktoken", "generation_config.json", TEMPLATE, "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*",
)  # fmt: skip


def read_base_config(base: Path) -> dict[str, Any]:
    """The base's config.json.

    Raises:
        NotFoundError: there is none. IntegrityError: it isn't a JSON object. ModelError: the base is quantized.
    """
    config = _read_object(base / CONFIG)
    if config.get("quantization_config"):
        method = config["quantization_config"]
        name = method.get("quant_method") if isinstance(method, dict) else None
        raise ModelError(
            f"the base is quantized ({name or 'quantization_config is set'})",
            where=str(base / CONFIG),
            remedy="give the unquantized base model: training quantizes it by itself",
        )
    return config


def merged_config(config: dict[str, Any], dtype: Dtype) -> bytes:
    """config.json of the merged model: the base's, with its dtype under today's name and, if it was there, the old."""
    changed = {key: value for key, value in config.items() if key != "quantization_config"}
    changed["dtype"] = dtype
    if "torch_dtype" in changed:
        changed["torch_dtype"] = dtype
    return _dump(changed)


def copy_companions(base: Path, adapter: Path, output: Path) -> None:
    """Copy the base's tokenizer and licence files, and the template that the adapter was trained with.

    transformers lets chat_template.jinja win over a template inside tokenizer_config.json, llama.cpp's converter
    does the opposite: so the latter is replaced, where the base has one, and further templates are left out.
    """
    template = _read_template(adapter / TEMPLATE)
    for source in _companions(base):
        if template is not None and source.parent != base:
            continue
        target = output / source.relative_to(base)
        target.parent.mkdir(exist_ok=True)
        if template is not None and source.name == TOKENIZER_CONFIG:
            _copy_tokenizer_config(source, target, template)
        else:
            shutil.copyfile(source, target)
    if template is not None:
        (output / TEMPLATE).write_bytes(template.encode())


def _companions(base: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for pattern in COPIED:
        for path in sorted(base.glob(pattern)):
            if path.is_file() and path not in seen:
                seen.add(path)
                yield path


def _copy_tokenizer_config(source: Path, target: Path, template: str) -> None:
    config = _read_object(source)
    if config.get("chat_template", template) == template:
        shutil.copyfile(source, target)
    else:
        target.write_bytes(_dump(config | {"chat_template": template}))


def _read_template(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise IntegrityError("the chat template is not UTF-8", where=str(path)) from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"no {path.name}", where=str(path.parent)) from error
    except ValueError as error:
        raise IntegrityError(f"not valid JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise IntegrityError("expected a JSON object", where=str(path))
    return value


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"

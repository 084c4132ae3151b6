"""What GGUF files say about themselves, against the model folder they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halops.llamacpp.convert import chat_template
from halops.llamacpp.gguf_file import CHAT_TEMPLATE, EOS, TOKENS, read_metadata


def check_file(gguf: Path, model: Path) -> list[str]:
    """A line for each thing in which a GGUF file differs from the model folder: chat template, end token.

    Other programs than ours read both from the file, and ours reads the end token.

    Raises IntegrityError if the file is no GGUF.
    """
    found = read_metadata(gguf, arrays=True)
    problems = []
    if found.get(CHAT_TEMPLATE) != chat_template(model):
        problems.append(f"{gguf.name}: {CHAT_TEMPLATE} isn't the chat template that was trained with")
    expected = eos_text(model)
    tokens, eos = found.get(TOKENS) or [], found.get(EOS)
    text = tokens[eos] if isinstance(eos, int) and eos < len(tokens) else None
    if expected is not None and text != expected:
        problems.append(f"{gguf.name}: {EOS} is {eos} {text!r}, the tokenizer's end token is {expected!r}")
    return problems


def eos_text(model: Path) -> str | None:
    """The text of the end token that the folder's tokenizer_config.json names, if it names one."""
    config: dict[str, Any] = {}
    if (model / "tokenizer_config.json").is_file():
        config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    value = config.get("eos_token")
    return value.get("content") if isinstance(value, dict) else value


def control_ids(gguf: Path) -> frozenset[int]:
    """Ids of control tokens, such as those of a chat template (LLAMA_TOKEN_TYPE_CONTROL is 3)."""
    types = read_metadata(gguf, arrays=True).get("tokenizer.ggml.token_type") or []
    return frozenset(index for index, kind in enumerate(types) if kind == 3)

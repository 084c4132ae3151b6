"""Which of a folder's files make up a model: weights as safetensors, configuration, tokenizer, licence."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from halops.errors import ModelError, NotFoundError
from halops.plan import TOKENIZER_FILES

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_TEXT = (".json", ".jinja", ".txt", ".model", ".md", "")  # endings of files that aren't weights
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")
_SHARD = re.compile(r".+-\d{5,}-of-\d{5,}\.safetensors")


def choose(names: Iterable[str], where: str) -> list[str]:
    """The files to take from a folder that holds a model or an adapter, sorted.

    Duplicates in other formats (pickles, ONNX, GGUF, `consolidated*`) stay behind.

    Raises:
        NotFoundError: there is no model at `where`.
        ModelError: its weights are only there in a format that isn't read.
    """
    top = {name for name in names if "/" not in name}
    adapter = ADAPTER_CONFIG in top and "config.json" not in top
    weights = {ADAPTER_WEIGHTS} & top if adapter else _weights(top)
    if not weights:
        raise _no_weights(top, where)
    patterns = (*TOKENIZER_FILES, *_LICENCES, ADAPTER_CONFIG)
    others = {name for name in top if _text(name) and any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    return sorted(weights | others)


def _weights(top: set[str]) -> set[str]:
    if INDEX in top:
        return {INDEX} | {name for name in top if _SHARD.fullmatch(name) and not name.startswith("consolidated")}
    if SINGLE in top:
        return {SINGLE}
    return set()


def _text(name: str) -> bool:
    stem, dot, ending = name.rpartition(".")
    return (f".{ending}" if dot and stem else "") in _TEXT


def _no_weights(top: set[str], where: str) -> ModelError | NotFoundError:
    if pickled := sorted(name for name in top if name.endswith(PICKLED)):
        return ModelError(
            f"the weights are there only as pickles, which can run code: {pickled[0]}",
            where=where,
            remedy="take a revision with safetensors, or convert them where you trust them",
        )
    if gguf := sorted(name for name in top if name.endswith(".gguf")):
        return ModelError(
            f"the folder has GGUF files only, such as {gguf[0]}",
            where=where,
            remedy="download the one that you want and give its path: file:///folder/NAME.gguf",
        )
    return NotFoundError(
        f"no {SINGLE} or {INDEX}", where=where, remedy="give a Hugging Face model folder, or a .gguf file"
    )

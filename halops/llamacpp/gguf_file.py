"""Read a GGUF file's metadata in milliseconds. The gguf package's reader takes seconds, for each vocabulary entry.

Layout (little endian): "GGUF", u32 version, u64 tensors, u64 pairs, then pairs of (string key, u32 type, value).
Source: ggml/include/gguf.h of llama.cpp.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from halops.errors import IntegrityError, NotFoundError

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
# value type -> struct code
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

CHAT_TEMPLATE = "tokenizer.chat_template"
EOS, BOS = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id"
ADD_BOS = "tokenizer.ggml.add_bos_token"
TOKENS = "tokenizer.ggml.tokens"


def read_metadata(path: Path, arrays: bool = False) -> dict[str, Any]:
    """Every key and value of a GGUF file.

    Args:
        arrays: read arrays too, as lists; otherwise an array's value is its length.

    Raises:
        NotFoundError: no such file.
        IntegrityError: not a GGUF file, or one that ends within its metadata.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != MAGIC:
                raise IntegrityError("not a GGUF file", where=str(path))
            return _Cursor(data).pairs(arrays)
    except OSError as error:
        raise NotFoundError(f"can't read the GGUF file: {error.strerror}", where=str(path)) from error
    except (struct.error, ValueError, KeyError) as error:
        raise IntegrityError("the GGUF file ends within its metadata, or is damaged", where=str(path)) from error


class _Cursor:
    """A position in the file, moved on by each read."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def pairs(self, arrays: bool) -> dict[str, Any]:
        version, _, count = self._take("I"), self._take("Q"), self._take("Q")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        return {self._string(): self._value(self._take("I"), arrays) for _ in range(count)}

    def _take(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _string(self) -> str:
        size = self._take("Q")
        if self._at + size > len(self._data):
            raise ValueError("a string goes past the end")
        self._at += size
        return self._data[self._at - size : self._at].decode("utf-8", errors="replace")

    def _value(self, kind: int, arrays: bool) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._take(SCALARS[kind])
        item, count = self._take("I"), self._take("Q")
        if arrays or item in (STRING, ARRAY):
            values = [self._value(item, arrays) for _ in range(count)]
            return values if arrays else count
        self._at += count * struct.calcsize(f"<{SCALARS[item]}")
        return count

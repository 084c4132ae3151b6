"""File formats of weights: safetensors and GGUF. Pickles can run code when they are read, and are refused.

Only headers are read, never the tensors. Formats: https://github.com/huggingface/safetensors#format and
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from halops.disk import disk_errors
from halops.errors import IntegrityError, ModelError

MOST_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

# bits of one element
DTYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file: dtype as the header spells it, shape, byte range behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def refuse_pickle(path: Path) -> None:
    """Raise ModelError if `path`, whatever its name, begins like a pickle or an archive of pickles."""
    with disk_errors(path), path.open("rb") as stream:
        head = stream.read(512)
    if kind := pickle_kind(head):
        raise ModelError(
            f"{path.name} is {kind}, which can run code when it is read",
            where=str(path),
            remedy="use safetensors or GGUF weights",
        )


def pickle_kind(head: bytes) -> str | None:
    """What the first 512 bytes of a file say about it, if it is one of PyTorch's pickled formats.

    Magic bytes: a PROTO opcode of protocols 2 to 5; a zip archive (torch.save from 1.6 on); a tar archive
    (before 0.1.10). One safetensors file in 2,048 has a header of a length that is written like a PROTO opcode; what
    follows tells them apart.
    """
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not _like_safetensors(head):
        return "a pickle"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "a zip archive of pickles" if b"data.pkl" in head else "a zip archive, as PyTorch pickles are"
    if head[257:262] == b"ustar":
        return "a tar archive, as old PyTorch pickles are"
    return None


def _like_safetensors(head: bytes) -> bool:
    """Whether a length that the library reads stands before the beginning of a mapping in JSON."""
    return int.from_bytes(head[:8], "little") <= MOST_HEADER_BYTES and head[8:10] in (b'{"', b"{}")


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a safetensors file, after checking that the header fits the file.

    Raises:
        ModelError: it is a pickle, or no safetensors file at all.
        IntegrityError: the header is damaged, or the file is shorter or longer than the header says.
    """
    refuse_pickle(path)
    with disk_errors(path), path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length, header = _header(stream, size, path)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, path) for name, entry in header.items()}
    _check_ranges(tensors, size - 8 - length, path)
    return tensors


def _header(stream: BinaryIO, size: int, path: Path) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(stream.read(8), "little")
    first = stream.read(1)
    if size >= 9 and first != b"{":
        raise ModelError("not a safetensors file", where=str(path), remedy="use safetensors or GGUF weights")
    if length > MOST_HEADER_BYTES:
        raise IntegrityError(f"the header claims {length} bytes", where=str(path), remedy="fetch the file again")
    if size < 9 or 8 + length > size:
        raise IntegrityError("the file ends within its header", where=str(path), remedy="fetch the file again")
    try:
        header = json.loads(first + stream.read(length - 1), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"the header is damaged: {error}", where=str(path), remedy="fetch it again") from error
    if not isinstance(header, dict):
        raise IntegrityError("the header is no mapping", where=str(path), remedy="fetch the file again")
    return length, header


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name occurs twice")
    return mapping


def _tensor(name: str, entry: Any, path: Path) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise IntegrityError(f"the entry of {name} is damaged", where=str(path)) from error
    if dtype not in DTYPES:
        raise ModelError(f"{name} has the unknown dtype {dtype!r}", where=str(path), remedy="use an unquantized model")
    if not whole or math.prod(shape) * DTYPES[dtype] != 8 * (end - begin):
        raise IntegrityError(f"the shape of {name} does not fit its bytes", where=str(path), remedy="fetch it again")
    return TensorInfo(dtype, shape, begin, end)


def _check_ranges(tensors: dict[str, TensorInfo], size: int, path: Path) -> None:
    """Tensors must follow each other without gap or overlap, and fill the file."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            problem = "overlaps another tensor" if tensor.begin < position else "leaves a gap before it"
            raise IntegrityError(f"{name} {problem}", where=str(path), remedy="fetch the file again")
        position = tensor.end
    if position != size:
        raise IntegrityError(
            f"{size} bytes of tensors, not the {position} that the header promises",
            where=str(path),
            remedy="the file is cut off or has been added to: fetch it again",
        )


def check_gguf(path: Path) -> None:
    """Check the first bytes of a GGUF file: magic, version, counts.

    Raises ModelError if it is a pickle, something else, or of a version that isn't read.
    """
    refuse_pickle(path)
    with disk_errors(path), path.open("rb") as stream:
        head = stream.read(24)
    if head[:4] != b"GGUF":
        raise ModelError("not a GGUF file", where=str(path), remedy="use safetensors or GGUF weights")
    if len(head) < 24:
        raise IntegrityError("the file ends within its header", where=str(path), remedy="fetch the file again")
    version = int.from_bytes(head[4:8], "little")
    if version not in (2, 3):
        raise ModelError(f"GGUF version {version} is not read", where=str(path), remedy="convert it anew; 3 is current")
    tensors, keys = (int.from_bytes(head[start : start + 8], "little") for start in (8, 16))
    if not 0 < tensors < 1 << 20 or not 0 < keys < 1 << 20:
        raise IntegrityError(f"a header of {tensors} tensors and {keys} keys", where=str(path), remedy="fetch it again")

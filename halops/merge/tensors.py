"""Reading safetensors without mapping the file: a checked header, then plain reads into the caller's buffers.

Mapped pages would count as resident memory, and the whole point of the merge is to need little of it.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.merge.cast import to_float32

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
MAX_HEADER: Final = 100 * 10**6  # the format's own limit
ITEM_BYTES: Final[dict[str, int]] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `size` bytes of `file` from the absolute position `offset`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a safetensors file; no tensor data is read.

    Raises:
        NotFoundError: no such file.
        ModelError: the file is a pickle, or holds a dtype that we don't know.
        IntegrityError: it is truncated, or its header is not what the format asks for.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            head = stream.read(9)
            length = int.from_bytes(head[:8], "little")
            if len(head) < 9 or not 2 <= length <= min(MAX_HEADER, size - 8) or head[8:] != b"{":
                raise _not_safetensors(head, path)
            raw = head[8:] + stream.read(length - 1)
    except FileNotFoundError as error:
        raise NotFoundError("no such file", where=str(path)) from error
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = [_tensor(name, entry, path, 8 + length) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("the safetensors header is damaged", where=str(path)) from error
    _check_spans(tensors, path, 8 + length, size)
    return {tensor.name: tensor for tensor in tensors}


def _not_safetensors(head: bytes, path: Path) -> ModelError | IntegrityError:
    # A zip is torch.save's container; 0x80 and a protocol number begin a bare pickle.
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        return ModelError(
            "this is a pickle, which can run code when it is read",
            where=str(path),
            remedy="save the model as safetensors: save_pretrained(folder) of a current transformers or peft",
        )
    return IntegrityError(
        "not a whole safetensors file", where=str(path), remedy="fetch the file again: it is truncated or damaged"
    )


def _tensor(name: str, entry: Mapping[str, Any], path: Path, data: int) -> TensorInfo:
    begin, end = (int(value) for value in entry["data_offsets"])
    shape = tuple(int(extent) for extent in entry["shape"])
    dtype = str(entry["dtype"])
    if dtype not in ITEM_BYTES:
        raise ModelError(f"{name} has the dtype {dtype}, which can't be read here", where=str(path))
    if any(extent < 0 for extent in shape) or math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise ValueError(name)
    return TensorInfo(name, path, dtype, shape, data + begin, end - begin)


def _check_spans(tensors: list[TensorInfo], path: Path, data: int, size: int) -> None:
    """Tensors must fill the data section exactly: no gap, no overlap, no end past the file's."""
    position = data
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
        if tensor.offset != position:
            raise IntegrityError(f"{tensor.name} overlaps another tensor, or follows a gap", where=str(path))
        position += tensor.size
    if position != size:
        raise IntegrityError(
            f"the header speaks of {position:,} bytes, the file has {size:,}",
            where=str(path),
            remedy="fetch the file again: it is truncated or damaged",
        )


def read_model(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a Hugging Face model folder, single file or sharded.

    Raises:
        NotFoundError: no folder, or no weights in it.
        ModelError: the weights are pickles.
        IntegrityError: a file is damaged, or index and shards disagree.
    """
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _read_sharded(folder)
    if pickles := sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)):
        raise ModelError(
            f"the model's weights are pickles ({', '.join(pickles[:3])}), which can run code when they are read",
            where=str(folder),
            remedy="use a safetensors version of this model",
        )
    raise NotFoundError(f"no {SINGLE} and no {INDEX}", where=str(folder), remedy="give a Hugging Face model folder")


def _read_sharded(folder: Path) -> dict[str, TensorInfo]:
    index = folder / INDEX
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("the index of the shards is damaged", where=str(index)) from error
    found: dict[str, TensorInfo] = {}
    for name in names:
        found |= read_header(folder / name)
    wrong = sorted(name for name in weight_map.keys() | found.keys() if weight_map.get(name) != _file(found.get(name)))
    if wrong:
        raise IntegrityError(f"index and shards disagree about {_some(wrong)}", where=str(index))
    return found


def _file(tensor: TensorInfo | None) -> str | None:
    return tensor.file.name if tensor else None


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


class TensorReader:
    """Reads parts of tensors; safe to share between threads. Use as a context manager."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on. Raises IntegrityError at the file's end."""
        descriptor = self._open(tensor.file)
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], tensor.offset + start + done)
            if not count:
                raise IntegrityError(f"the file ends within {tensor.name}", where=str(tensor.file))
            done += count

    def float32(self, tensor: TensorInfo) -> NDArray[np.float32]:
        """A whole tensor of a floating dtype as float32, shape as stored."""
        raw = np.empty(tensor.size, np.uint8)
        self.read_into(tensor, 0, raw.data)
        out = np.empty(tensor.elements, np.float32)
        to_float32(raw, tensor.dtype, out)
        return out.reshape(tensor.shape)

    def _open(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[path]

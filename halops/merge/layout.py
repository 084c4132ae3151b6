"""The merged model's files, laid out before a byte is written: shards, headers, and each tensor's place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from halops.errors import ModelError
from halops.merge.cast import CODES, FLOATS, Dtype
from halops.merge.tensors import INDEX, ITEM_BYTES, SINGLE, TensorInfo

METADATA: Final = {"format": "pt"}  # what transformers asks for before it loads a file


@dataclass(frozen=True)
class Placed:
    """One tensor of the output: the base's tensor, its new dtype, and its absolute place in a shard."""

    source: TensorInfo
    dtype: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shard:
    """One file: its header (8 bytes of length, JSON, padding) and its tensors in order."""

    name: str
    header: bytes
    tensors: tuple[Placed, ...]
    size: int


def plan_shards(base: Mapping[str, TensorInfo], dtype: Dtype, max_shard_bytes: int) -> tuple[Shard, ...]:
    """Lay out every tensor of the base in shards of at most `max_shard_bytes` of data (one tensor may be more).

    Floating tensors become `dtype`, others stay. Wider items come first, then names are sorted, as the safetensors
    library writes a file. Raises ModelError for dtypes that only quantized models have.
    """
    sized = [(tensor, *_new_dtype(tensor, dtype)) for tensor in base.values()]
    sized.sort(key=lambda item: (-ITEM_BYTES[item[1]], item[0].name))
    groups: list[list[tuple[TensorInfo, str, int]]] = [[]]
    filled = 0
    for item in sized:
        if groups[-1] and filled + item[2] > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += item[2]
    names = [SINGLE] if len(groups) == 1 else [f"model-{i:05}-of-{len(groups):05}.safetensors"
                                               for i in range(1, len(groups) + 1)]  # fmt: skip
    return tuple(_shard(name, group) for name, group in zip(names, groups, strict=True))


def _new_dtype(tensor: TensorInfo, dtype: Dtype) -> tuple[str, int]:
    if tensor.dtype.startswith("F8"):
        raise ModelError(
            f"{tensor.name} is quantized ({tensor.dtype})",
            where=str(tensor.file),
            remedy="give the unquantized base model",
        )
    code = CODES[dtype] if tensor.dtype in FLOATS else tensor.dtype
    return code, tensor.elements * ITEM_BYTES[code]


def _shard(name: str, items: Iterable[tuple[TensorInfo, str, int]]) -> Shard:
    entries: dict[str, object] = {"__metadata__": METADATA}
    position = 0
    spans = []
    for tensor, dtype, size in items:
        entries[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": (position, position + size)}
        spans.append((tensor, dtype, position, size))
        position += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    header = len(text).to_bytes(8, "little") + text
    placed = tuple(Placed(tensor, dtype, len(header) + start, size) for tensor, dtype, start, size in spans)
    return Shard(name, header, placed, len(header) + position)


def index_json(shards: Iterable[Shard]) -> bytes:
    """The index that names each tensor's shard."""
    weight_map = {tensor.source.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.size for shard in shards for tensor in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def file_names(shards: tuple[Shard, ...]) -> list[str]:
    """Names of all weight files, the index included."""
    return [shard.name for shard in shards] + ([INDEX] if len(shards) > 1 else [])

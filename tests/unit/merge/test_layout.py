"""The files of the output, laid out in advance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from halops.errors import ModelError
from halops.merge.layout import index_json, plan_shards
from halops.merge.tensors import TensorInfo

SHAPES = {"b": (3, 5), "a": (7,), "c.weight": (2, 2), "é": (), "empty": (0, 4)}


def infos(dtype: str = "BF16", **more: TensorInfo) -> dict[str, TensorInfo]:
    size = {"BF16": 2, "F32": 4}[dtype]
    found = {name: TensorInfo(name, Path("f"), dtype, shape, 0, int(np.prod(shape)) * size)
             for name, shape in SHAPES.items()}  # fmt: skip
    return found | more


def test_the_header_is_the_one_the_library_writes() -> None:
    """So a merged file has the digest of the same tensors saved by transformers."""
    positions = TensorInfo("positions", Path("f"), "I64", (4,), 0, 32)
    (shard,) = plan_shards(infos(positions=positions), "float16", 10**9)
    arrays = {name: np.zeros(shape, np.float16) for name, shape in SHAPES.items()}
    expected = save(arrays | {"positions": np.zeros(4, np.int64)}, {"format": "pt"})
    assert shard.name == "model.safetensors"
    assert shard.size == len(expected)
    assert expected.startswith(shard.header)


@pytest.mark.parametrize(("limit", "sizes"), [(44, [44, 10]), (30, [14, 30, 10]), (1, [14, 30, 8, 0, 2])])
def test_shards_hold_at_most_the_limit(limit: int, sizes: list[int]) -> None:
    shards = plan_shards(infos("F32"), "bfloat16", limit)
    assert sorted(sum(t.size for t in shard.tensors) for shard in shards) == sorted(sizes)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    assert [shard.name for shard in shards] == names
    index = json.loads(index_json(shards))
    assert index["metadata"]["total_size"] == sum(sizes)
    assert index["weight_map"].keys() == SHAPES.keys()
    assert list(index["weight_map"]) == sorted(index["weight_map"])


def test_places_do_not_overlap() -> None:
    for shard in plan_shards(infos(), "float16", 40):
        position = len(shard.header)
        for tensor in shard.tensors:
            assert tensor.offset == position
            position += tensor.size
        assert position == shard.size


def test_quantized_dtypes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"x is quantized \(F8_E4M3\)"):
        plan_shards({"x": TensorInfo("x", Path("f"), "F8_E4M3", (4,), 0, 4)}, "float16", 100)

"""Reading safetensors: what is read, and what a damaged or dangerous file says."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.merge.tensors import INDEX, SINGLE, TensorReader, read_header, read_model

VALUES = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int64)}


def damage(path: Path, entries: dict[str, Any], data: bytes) -> None:
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / SINGLE, {"format": "pt"})
    found = read_model(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {"a": (3, 4), "b": (5,)}
    with TensorReader() as reader:
        assert (reader.float32(found["a"]) == VALUES["a"]).all()
        buffer = bytearray(16)
        reader.read_into(found["b"], 8, memoryview(buffer))
    assert np.frombuffer(buffer, np.int64).tolist() == [1, 2]


def test_reads_shards(tmp_path: Path) -> None:
    for name, value in VALUES.items():
        save_file({name: value}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in VALUES}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert {name: tensor.file.name for name, tensor in read_model(tmp_path).items()} == index["weight_map"]


@pytest.mark.parametrize(
    ("entries", "data", "says"),
    [
        ({"a": entry(0, 4), "b": entry(6, 8)}, b"x" * 8, "b overlaps another tensor, or follows a gap"),
        ({"a": entry(0, 4), "b": entry(2, 8)}, b"x" * 8, "b overlaps"),
        ({"a": entry(0, 8)}, b"x" * 7, "the header speaks of"),
        ({"a": entry(0, 4)}, b"x" * 7, "the header speaks of"),
        ({"a": entry(0, 8, "F32", [3])}, b"x" * 8, "header is damaged"),
        ({"a": entry(0, 8, "F32", [-1, -2])}, b"x" * 8, "header is damaged"),
        ({"a": {"dtype": "F32"}}, b"", "header is damaged"),
        ({"a": [1]}, b"", "header is damaged"),
    ],
)
def test_names_damage(entries: dict[str, Any], data: bytes, says: str, tmp_path: Path) -> None:
    damage(tmp_path / SINGLE, entries, data)
    with pytest.raises(IntegrityError, match=says):
        read_header(tmp_path / SINGLE)


@pytest.mark.parametrize("keep", [0, 4, 8, 9, 40])
def test_names_truncation(keep: int, tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / SINGLE)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        read_header(tmp_path / SINGLE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_refuses_a_pickle_that_is_named_safetensors(protocol: int, tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(pickle.dumps({"weights": list(range(300))}, protocol))
    with pytest.raises(ModelError, match="this is a pickle") as caught:
        read_header(tmp_path / SINGLE)
    assert caught.value.exit_code == 42


def test_refuses_torchs_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / SINGLE, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(ModelError, match="this is a pickle"):
        read_header(tmp_path / SINGLE)


def test_a_pickle_whose_first_bytes_could_be_a_length(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(b"\x80\2\0\0\0\0\0\0" + b"cposix\nsystem\n" * 100)
    with pytest.raises(ModelError, match="this is a pickle"):
        read_header(tmp_path / SINGLE)


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path) -> None:
    """Its length begins with the bytes 0x80 0x02, as a pickle does."""
    header = json.dumps({"a": entry(0, 4)}).encode().ljust(640)
    (tmp_path / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    assert read_header(tmp_path / SINGLE)["a"].size == 4


def test_unknown_dtype_is_named(tmp_path: Path) -> None:
    damage(tmp_path / SINGLE, {"a": entry(0, 4, "F4")}, b"data")
    with pytest.raises(ModelError, match="a has the dtype F4"):
        read_header(tmp_path / SINGLE)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        read_model(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "index of the shards is damaged"),
        ('{"weight_map": {}}', "index of the shards is damaged"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "index of the shards is damaged"),
        ('{"weight_map": {"a": "a.safetensors"}}', "index and shards disagree about b"),
        ('{"weight_map": {"a": "a.safetensors", "b": "a.safetensors", "c": "a.safetensors"}}', "disagree about c"),
    ],
)
def test_a_wrong_index(text: str, says: str, tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / "a.safetensors")
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(IntegrityError, match=says):
        read_model(tmp_path)


def test_a_missing_shard(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "a.safetensors"}}')
    with pytest.raises(NotFoundError) as caught:
        read_model(tmp_path)
    assert str(tmp_path / "a.safetensors") in str(caught.value)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, make_safetensors: Callable[..., None]) -> None:
    make_safetensors(tmp_path / SINGLE, {"a": ("F32", VALUES["a"])})
    tensor = read_header(tmp_path / SINGLE)["a"]
    with TensorReader() as reader:
        (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-4])
        with pytest.raises(IntegrityError, match="the file ends within a"):
            reader.float32(tensor)

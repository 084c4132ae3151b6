from __future__ import annotations

import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halops.errors import HalopsError, IntegrityError, ModelError
from halops.models.formats import check_gguf, read_safetensors_header, refuse_pickle


def safetensors(path: Path, header: Any, body: int, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(body))
    return path


def tensor(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file(
        {"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.int64), "c": np.zeros((0, 4), np.uint8)},
        tmp_path / "x.safetensors",
        metadata={"format": "pt"},
    )
    tensors = read_safetensors_header(tmp_path / "x.safetensors")
    assert {name: (info.dtype, info.shape) for name, info in tensors.items()} == {
        "a": ("F16", (2, 3)),
        "b": ("I64", ()),
        "c": ("U8", (0, 4)),
    }


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x10480])
def test_a_header_as_long_as_a_pickle_begins_is_read(tmp_path: Path, length: int) -> None:
    """The length comes first, and these are written like the opcode that a pickle begins with."""
    header = json.dumps({"a": tensor(0, 8)}).encode().ljust(length)
    path = safetensors(tmp_path / "x.safetensors", header, 8)
    assert path.read_bytes()[0] == 0x80
    refuse_pickle(path)
    assert list(read_safetensors_header(path)) == ["a"]


@pytest.mark.parametrize(
    ("header", "body", "length", "error", "says"),
    [
        ({"a": tensor(0, 8)}, 4, None, IntegrityError, "4 bytes of tensors, not the 8"),
        ({"a": tensor(0, 8)}, 9, None, IntegrityError, "9 bytes of tensors, not the 8"),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, None, IntegrityError, "b overlaps"),
        ({"a": tensor(0, 8), "b": tensor(12, 16)}, 16, None, IntegrityError, "leaves a gap"),
        ({"a": tensor(4, 8)}, 8, None, IntegrityError, "leaves a gap"),
        ({"a": tensor(0, 8, shape=(3,))}, 8, None, IntegrityError, "does not fit its bytes"),
        ({"a": tensor(0, 8, shape=(-2,))}, 8, None, IntegrityError, "does not fit its bytes"),
        ({"a": tensor(8, 0, shape=(-2,))}, 8, None, IntegrityError, "does not fit its bytes"),
        ({"a": tensor(0, 8, shape=(2.0,))}, 8, None, IntegrityError, "does not fit its bytes"),
        ({"a": tensor(0, 8, "Q4_0")}, 8, None, ModelError, "unknown dtype 'Q4_0'"),
        ({"a": tensor(0, 8) | {"data_offsets": [0]}}, 8, None, IntegrityError, "entry of a is damaged"),
        ({"a": {}}, 8, None, IntegrityError, "entry of a is damaged"),
        ({"a": 3}, 8, None, IntegrityError, "entry of a is damaged"),
        (b'{"a": 1, "a": 2}', 0, None, IntegrityError, "a name occurs twice"),
        (b'{"a": ', 0, None, IntegrityError, "the header is damaged"),
        (b"{" + b"\xff" * 9, 0, None, IntegrityError, "the header is damaged"),
        (b"{" + b'"a":[' + b"[" * 100_000, 0, None, IntegrityError, "the header is damaged"),
        ({"a": tensor(0, 8)}, 8, 1 << 40, IntegrityError, "the header claims"),
        ({"a": tensor(0, 8)}, 8, 5000, IntegrityError, "ends within its header"),
        (b"[1, 2]", 8, None, ModelError, "not a safetensors file"),
        (b"", 0, None, IntegrityError, "ends within its header"),
    ],
)
def test_headers_that_do_not_fit(
    tmp_path: Path, header: Any, body: int, length: int | None, error: type[HalopsError], says: str
) -> None:
    path = safetensors(tmp_path / "x.safetensors", header, body, length)
    with pytest.raises(error) as caught:
        read_safetensors_header(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def protocol(number: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(pickle.dumps({"a": 1}, protocol=number))

    return write


def torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(100))


def torch_legacy(path: Path) -> None:
    with path.open("wb") as stream:
        pickle.dump(0x1950A86A20F9469CFC6C, stream, protocol=2)


def torch_tar(path: Path) -> None:
    (path.parent / "pickle").write_bytes(pickle.dumps({}, 2))
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "pickle", "pickle")
    (path.parent / "pickle").unlink()


PICKLES = [*(protocol(number) for number in (2, 3, 4, 5)), torch_zip, torch_legacy, torch_tar]


@pytest.mark.parametrize("write", PICKLES)
def test_pickles_are_refused_under_any_name(tmp_path: Path, write: Callable[[Path], None]) -> None:
    for name in ("model.safetensors", "model.gguf", "tokenizer.json"):
        write(tmp_path / name)
    for act, name in (
        (refuse_pickle, "tokenizer.json"),
        (read_safetensors_header, "model.safetensors"),
        (check_gguf, "model.gguf"),
    ):
        with pytest.raises(ModelError, match="can run code") as caught:
            act(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.exit_code == 42


def test_harmless_files_pass(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"\x0a\x0b sentencepiece", b"\x80", b"plain text", bytes(600)):
        (tmp_path / "x").write_bytes(content)
        refuse_pickle(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 2, 1), None, ""),
        (b"GGUF" + struct.pack("<IQQ", 1, 2, 1), ModelError, "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 2, 1), ModelError, "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), IntegrityError, "0 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 50, 1), IntegrityError, "tensors"),
        (b"GGUF\3\0\0\0", IntegrityError, "ends within its header"),
        (b"GGML" + bytes(100), ModelError, "not a GGUF file"),
        (b"", ModelError, "not a GGUF file"),
    ],
)
def test_gguf_headers(tmp_path: Path, data: bytes, error: type[HalopsError] | None, says: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    if error is None:
        check_gguf(path)
        return
    with pytest.raises(error) as caught:
        check_gguf(path)
    assert says in str(caught.value)

"""The chart's values of a GGUF file."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
import yaml

from halops.serving.describe import main


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(path: Path, numbers: dict[str, int], tokens: int = 3) -> Path:
    pairs = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    for key, value in numbers.items():
        pairs += string(key) + struct.pack("<II", 4, value)
    pairs += string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, tokens) + string("a") * tokens
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(numbers) + 2) + pairs)
    return path


HEADER = {"llama.block_count": 30, "llama.attention.head_count": 9, "llama.embedding_length": 576}


@pytest.mark.parametrize(
    ("more", "heads", "width"),
    [({}, 9, 64), ({"llama.attention.head_count_kv": 3}, 3, 64), ({"llama.attention.key_length": 128}, 9, 128)],
)
def test_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, int], heads: int, width: int
) -> None:
    path = gguf(tmp_path / "m.gguf", HEADER | more)
    assert main([str(path)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"] == {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "dimensions": {"layers": 30, "kvHeads": heads, "headDim": width, "vocabulary": 3},
    }


def test_what_the_header_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gguf(tmp_path / "m.gguf", {"llama.attention.head_count": 9})
    assert main([str(path)]) == 43
    assert "no llama.block_count" in capsys.readouterr().err


def test_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").write_bytes(b"PK\x03\x04" + bytes(100))
    assert main([str(tmp_path / "m")]) == 43
    assert "not a GGUF file" in capsys.readouterr().err

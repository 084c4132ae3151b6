"""Metadata of GGUF files, as written by the gguf package."""

from pathlib import Path

import pytest

from halops.errors import IntegrityError, NotFoundError
from halops.llamacpp.gguf_file import ADD_BOS, CHAT_TEMPLATE, EOS, TOKENS, read_metadata


@pytest.fixture
def file(tmp_path: Path) -> Path:
    from gguf import GGUFWriter

    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_token_list(["a", "b", "é"])
    writer.add_token_types([1, 2, 3])
    writer.add_chat_template("{{ messages }}\n")
    writer.add_layer_norm_rms_eps(0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_scalars_strings_and_array_lengths(file: Path) -> None:
    found = read_metadata(file)
    assert found["general.architecture"] == "llama"
    assert found[EOS] == 2
    assert found[ADD_BOS] is False
    assert found[CHAT_TEMPLATE] == "{{ messages }}\n"
    assert found["llama.attention.layer_norm_rms_epsilon"] == 0.5
    assert found[TOKENS] == 3
    assert found["tokenizer.ggml.token_type"] == 3


def test_arrays_if_asked_for(file: Path) -> None:
    found = read_metadata(file, arrays=True)
    assert found[TOKENS] == ["a", "b", "é"]
    assert found["tokenizer.ggml.token_type"] == [1, 2, 3]


def test_a_file_cut_anywhere_in_its_metadata_is_refused(file: Path) -> None:
    data = file.read_bytes()
    end = data.index(b"\x00\x00\x00\x3f") + 4  # the last value, 0.5
    for size in range(4, end, 3):
        file.write_bytes(data[:size])
        with pytest.raises(IntegrityError):
            read_metadata(file)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"GGUF" + b"\xff" * 100])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        read_metadata(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"x\.gguf"):
        read_metadata(tmp_path / "x.gguf")

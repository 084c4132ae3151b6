"""What lies beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.merge.companions import copy_companions, merged_config, read_base_config

OURS = "{% for m in messages %}ours\n{% endfor %}"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Base with a tokenizer and things that must stay behind, an empty adapter, an empty output."""
    base, adapter, output = (tmp_path / name for name in ("base", "adapter", "output"))
    for folder in (base, adapter, output):
        folder.mkdir()
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "generation_config.json",
                 "tokenizer.model", "qwen.tiktoken", "LICENSE", "chat_template.jinja", "modeling_own.py", "README.md",
                 "pytorch_model.bin", "model.safetensors", "config.json"):  # fmt: skip
        (base / name).write_bytes(f"\r\n{name}\0".encode())
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (base / "tokenizer_config.json").write_text('{"chat_template":"old",  "b": "é"}')
    return base, adapter, output


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


COPIED = {"tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "generation_config.json",
          "tokenizer.model", "qwen.tiktoken", "LICENSE", "chat_template.jinja", "tokenizer_config.json"}  # fmt: skip


def test_without_a_template_everything_is_copied_as_it_is(folders: tuple[Path, Path, Path]) -> None:
    base, adapter, output = folders
    copy_companions(base, adapter, output)
    assert files(output) == COPIED | {"additional_chat_templates/tool_use.jinja"}
    assert all((output / name).read_bytes() == (base / name).read_bytes() for name in files(output))


def test_the_adapters_template_is_the_only_one(folders: tuple[Path, Path, Path]) -> None:
    base, adapter, output = folders
    (adapter / "chat_template.jinja").write_bytes(OURS.encode())
    copy_companions(base, adapter, output)
    assert files(output) == COPIED
    assert (output / "chat_template.jinja").read_bytes() == OURS.encode()
    assert json.loads((output / "tokenizer_config.json").read_text()) == {"chat_template": OURS, "b": "é"}


@pytest.mark.parametrize("inline", [None, OURS])
def test_a_tokenizer_config_that_agrees_is_copied_byte_for_byte(
    inline: str | None, folders: tuple[Path, Path, Path]
) -> None:
    base, adapter, output = folders
    (adapter / "chat_template.jinja").write_bytes(OURS.encode())
    text = json.dumps({"a": 1} | ({"chat_template": inline} if inline else {}), indent=7)
    (base / "tokenizer_config.json").write_text(text)
    copy_companions(base, adapter, output)
    assert (output / "tokenizer_config.json").read_text() == text


def test_a_list_of_templates_becomes_the_one(folders: tuple[Path, Path, Path]) -> None:
    base, adapter, output = folders
    (adapter / "chat_template.jinja").write_bytes(OURS.encode())
    (base / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "x"}]}')
    copy_companions(base, adapter, output)
    assert json.loads((output / "tokenizer_config.json").read_text()) == {"chat_template": OURS}


def test_damage_is_named(folders: tuple[Path, Path, Path]) -> None:
    base, adapter, output = folders
    (adapter / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(IntegrityError, match="not UTF-8"):
        copy_companions(base, adapter, output)
    (adapter / "chat_template.jinja").write_bytes(b"x")
    (base / "tokenizer_config.json").write_text("[]")
    with pytest.raises(IntegrityError, match="expected a JSON object"):
        copy_companions(base, adapter, output)


@pytest.mark.parametrize("old", ["dtype", "torch_dtype"])
def test_config_gets_the_new_dtype(old: str) -> None:
    config = json.loads(merged_config({old: "bfloat16", "quantization_config": None, "z": 1}, "float16"))
    assert config == {old: "float16", "dtype": "float16", "z": 1}


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(ModelError, match=r"the base is quantized \(gptq\)"):
        read_base_config(tmp_path)


def test_a_missing_or_damaged_config(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        read_base_config(tmp_path)
    (tmp_path / "config.json").write_text("{,}")
    with pytest.raises(IntegrityError, match="not valid JSON"):
        read_base_config(tmp_path)

"""What a model's files say about its tokenizer, read as llama.cpp's converter reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halops.chat_template import CHATML, ChatTemplate
from halops.data.tokenizer import ChatTokenizer
from halops.errors import ModelError
from tests import chat_templates as styles

MakeModel = Callable[..., Path]


def _edit(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(value | values))


def _processor(*single: dict[str, Any]) -> dict[str, Any]:
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}
    return {"type": "TemplateProcessing", "single": list(single), "pair": pair, "special_tokens": special}


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}


@pytest.mark.parametrize(
    ("kind", "config", "processor", "vocab_size", "adds"),
    [
        ("gpt2", {}, "as it is", 1500, False),
        ("gpt2", {"add_bos_token": True}, "as it is", 1500, False),  # the post-processor counts, not this
        ("gpt2", {"add_bos_token": True}, None, 1500, True),
        ("gpt2", {}, None, 1500, False),
        ("gpt2", {}, _processor(BOS, TEXT), 1500, True),
        ("gpt2", {"add_bos_token": False}, _processor(BOS, TEXT), 1500, True),
        ("gpt2", {}, _processor(BOS, TEXT), 49152, False),
        ("gpt2", {"bos_token": None}, _processor(BOS, TEXT), 1500, False),
        ("gpt2", {"bos_token": "<|endoftext|>"}, _processor(BOS, TEXT), 1500, False),
        ("sentencepiece", {}, None, 1500, True),
        ("sentencepiece", {"add_bos_token": False}, None, 1500, False),
        ("sentencepiece", {"add_bos_token": False}, _processor(TEXT), 1500, False),
        ("sentencepiece", {}, {"type": "Sequence", "processors": [_processor(BOS, TEXT)]}, 1500, True),
    ],
)
def test_whether_the_server_adds_bos(
    make_model: MakeModel, kind: str, config: dict[str, Any], processor: Any, vocab_size: int, adds: bool
) -> None:
    folder = make_model(CHATML, kind=kind, **config)
    if processor != "as it is":
        _edit(folder, "tokenizer.json", post_processor=processor)
    _edit(folder, "config.json", vocab_size=vocab_size)
    assert ChatTokenizer(folder).adds_bos is adds


def test_named_tokens_and_where_they_come_from(make_model: MakeModel) -> None:
    folder = make_model(CHATML, bos_token={"content": "<s>", "lstrip": False}, eos_token=None)
    _edit(folder, "special_tokens_map.json", eos_token={"content": "</s>"}, bos_token="<|end|>")
    _edit(folder, "config.json", eos_token_id=2)
    _edit(folder, "generation_config.json", eos_token_id=[2, 10, 999_999, 300])
    tokenizer = ChatTokenizer(folder)
    assert (tokenizer.bos, tokenizer.eos) == ("<s>", "</s>")
    assert tokenizer.ends == {"<|im_end|>", "<|end|>", "</s>"}  # 300 isn't special
    assert tokenizer.token_id("<|im_end|>") == 2
    assert "<|im_end|>" in tokenizer.special
    assert list(tokenizer.special) == sorted(tokenizer.special, key=len, reverse=True)


def test_no_limit_nor_padding_of_the_file_applies(make_model: MakeModel) -> None:
    folder = make_model(CHATML)
    _edit(
        folder, "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "<|endoftext|>"},
    )  # fmt: skip
    short, long = ChatTokenizer(folder).encode(["a", "word " * 50])
    assert len(short.ids) == 1
    assert len(long.ids) > 50


def test_special_tokens_are_read_and_none_added(make_model: MakeModel) -> None:
    folder = make_model(CHATML)
    _edit(folder, "tokenizer.json", post_processor=_processor(BOS, TEXT))
    tokenizer = ChatTokenizer(folder)
    [encoding] = tokenizer.encode(["<|im_start|>a"])
    assert encoding.ids[0] == tokenizer.token_id("<|im_start|>")


def test_where_the_template_is_found(make_model: MakeModel) -> None:
    assert ChatTokenizer(make_model("{{ 1 }}", chat_template="{{ 2 }}", name="a")).template == "{{ 1 }}"
    assert ChatTokenizer(make_model(None, chat_template="{{ 2 }}", name="b")).template == "{{ 2 }}"
    folder = make_model(None, name="c")
    _edit(folder, "chat_template.json", chat_template="{{ 3 }}")
    assert ChatTokenizer(folder).template == "{{ 3 }}"


def test_a_list_of_templates_is_made_into_one(make_model: MakeModel) -> None:
    both = [{"name": "tool_use", "template": "T{{ tools | length }}"}, {"name": "default", "template": "D"}]
    template = ChatTemplate(ChatTokenizer(make_model(None, chat_template=both, name="a")).template)
    assert template.render(styles.CHAT) == "D"
    assert template.render(styles.CHAT, styles.TOOLS) == "T1"
    assert ChatTokenizer(make_model(None, chat_template=both[1:], name="b")).template == "D"
    assert ChatTokenizer(make_model(None, chat_template=both[:1], name="c")).template == "T{{ tools | length }}"


def test_a_file_of_its_own_for_tools(make_model: MakeModel) -> None:
    folder = make_model("D")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T{{ tools | length }}")
    template = ChatTemplate(ChatTokenizer(folder).template)
    assert template.render(styles.CHAT) == "D"
    assert template.render(styles.CHAT, styles.TOOLS) == "T1"


def test_a_template_that_is_no_text(make_model: MakeModel) -> None:
    folder = make_model(CHATML)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(ModelError, match="UTF-8"):
        _ = ChatTokenizer(folder).template


def test_without_a_template_chatml_is_used_if_its_tokens_are_there(make_model: MakeModel) -> None:
    folder = make_model(None)
    assert ChatTokenizer(folder).serving_template() == CHATML
    text = (folder / "tokenizer.json").read_text().replace("<|im_start|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="no chat template"):
        _ = ChatTokenizer(folder).template


def test_serving_template_knows_about_bos(make_model: MakeModel) -> None:
    folder = make_model(styles.PHI3, kind="sentencepiece")
    assert ChatTokenizer(folder).serving_template().startswith("{{- bos_token }}{% for")


@pytest.mark.parametrize(
    ("name", "said"), [("tokenizer.json", "can't read the tokenizer"), ("config.json", "not valid JSON")]
)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_files(make_model: MakeModel, name: str, said: str, content: bytes) -> None:
    folder = make_model(CHATML)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        _ = ChatTokenizer(folder).ends
    assert caught.value.where == str(folder / name)


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer.json") as caught:
        ChatTokenizer(tmp_path)
    assert "save_pretrained" in str(caught.value)

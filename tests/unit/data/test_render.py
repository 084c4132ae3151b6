"""Rendering and the loss mask, with real tokenizers: what carries loss is what the assistant writes, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from halops.chat_template import serving_template
from halops.data.messages import check_messages
from halops.data.render import Renderer, Tokens
from halops.data.tokenizer import ChatTokenizer
from halops.errors import DataError, ModelError
from tests import chat_templates as styles

MakeTokenizer = Callable[..., ChatTokenizer]
FULL = [styles.SYSTEM, *styles.CHAT]
# style -> (kind of tokenizer, BOS, EOS, end of turn)
FAMILIES = {
    "CHATML_DEFAULT": ("gpt2", "<|im_start|>", "<|im_end|>", "<|im_end|>"),
    "CHATML_TOOLS": ("bytes", "", "<|im_end|>", "<|im_end|>"),
    "LLAMA3": ("bytes", "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>"),
    "MISTRAL": ("sentencepiece", "<s>", "</s>", "</s>"),
    "PHI3": ("sentencepiece", "<s>", "<|endoftext|>", "<|end|>"),
    "NO_SYSTEM": ("sentencepiece", "<s>", "</s>", "<end_of_turn>"),
    "LAST_SYSTEM": ("sentencepiece", "<s>", "</s>", "</s>"),
    "REASONING": ("gpt2", "", "<|im_end|>", "<|im_end|>"),
    "SWITCH": ("bytes", "", "<|im_end|>", "<|im_end|>"),
}


def _renderer(make_tokenizer: MakeTokenizer, name: str) -> Renderer:
    kind, bos, eos, _ = FAMILIES[name]
    tokenizer = make_tokenizer(getattr(styles, name), kind=kind, bos_token=bos, eos_token=eos, add_bos_token=False)
    return Renderer(tokenizer, tokenizer.serving_template())


def _learnt(renderer: Renderer, tokens: Tokens) -> list[str]:
    """The text of each span with loss, special tokens shown."""
    pieces = [tokens.input_ids[start:end] for start, end in tokens.trained]
    return [renderer.tokenizer._tokenizer.decode(ids, skip_special_tokens=False) for ids in pieces]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("chat", [styles.CHAT[:2], styles.CHAT, FULL], ids=["short", "long", "system"])
def test_answers_with_their_end_of_turn_carry_loss_and_nothing_else(
    make_tokenizer: MakeTokenizer, name: str, chat: list[dict[str, Any]]
) -> None:
    renderer = _renderer(make_tokenizer, name)
    end = FAMILIES[name][3]
    learnt = [text for tokens in renderer.encode(renderer.texts(chat)) for text in _learnt(renderer, tokens)]
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    thought = "<think>\n\n</think>\n\n" if name == "REASONING" else ""
    assert [text.strip() for text in learnt] == [thought + answer + end for answer in answers]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_turn_is_learnt_after_exactly_the_prompt_that_is_served(make_tokenizer: MakeTokenizer, name: str) -> None:
    renderer = _renderer(make_tokenizer, name)
    prompts = [
        renderer.template.render(renderer._as_served(FULL[:index]), add_generation_prompt=True)
        for index, message in enumerate(FULL)
        if message["role"] == "assistant"
    ]
    expected = sorted(encoding.ids for encoding in renderer.tokenizer.encode(prompts))
    rows = renderer.encode(renderer.texts(FULL))
    assert sorted(row.input_ids[:start] for row in rows for start, _ in row.trained) == expected


@pytest.mark.parametrize(
    ("name", "rows"), [("CHATML_TOOLS", 1), ("MISTRAL", 1), ("LAST_SYSTEM", 2), ("REASONING", 2), ("SWITCH", 2)]
)
def test_turns_that_change_once_others_follow_come_apart(make_tokenizer: MakeTokenizer, name: str, rows: int) -> None:
    texts = _renderer(make_tokenizer, name).texts(FULL)
    assert len(texts) == rows
    assert [len(text.spans) for text in texts] == [2] if rows == 1 else [1, 1]


def test_there_is_one_bos_where_the_template_has_one(make_tokenizer: MakeTokenizer) -> None:
    for name, count in (("LLAMA3", 1), ("MISTRAL", 1), ("PHI3", 0)):
        kind, bos, eos, _ = FAMILIES[name]
        tokenizer = make_tokenizer(getattr(styles, name), kind=kind, bos_token=bos, eos_token=eos, name=name)
        renderer = Renderer(tokenizer, serving_template(tokenizer.template, adds_bos=bool(count)))
        [tokens] = renderer.encode(renderer.texts(styles.CHAT))
        assert tokens.input_ids.count(tokenizer.token_id(bos) or -1) == count
        assert (tokens.input_ids[0] == tokenizer.token_id(bos)) == bool(count)


def test_a_system_message_joins_the_first_question_where_there_is_no_such_role(make_tokenizer: MakeTokenizer) -> None:
    text = _renderer(make_tokenizer, "NO_SYSTEM").texts(FULL)[-1].text
    assert "<start_of_turn>user\nAnswer in one line.\nWhere is srv-0142?<end_of_turn>" in text


def test_tool_calls_are_learnt(make_tokenizer: MakeTokenizer) -> None:
    renderer = _renderer(make_tokenizer, "CHATML_TOOLS")
    chat = check_messages(styles.TOOL_CHAT, pytest.fail, pytest.fail)
    assert chat is not None
    [text] = renderer.texts(chat, styles.TOOLS)
    [tokens] = renderer.encode([text])
    assert _learnt(renderer, tokens) == [
        '<tool_call>\n{"name": "ping", "arguments": {"host": "srv-1", "n": 2}}\n</tool_call><|im_end|>',
        "It is up.<|im_end|>",
    ]


def test_white_space_is_kept_as_chatml_keeps_it(make_tokenizer: MakeTokenizer) -> None:
    renderer = _renderer(make_tokenizer, "CHATML_DEFAULT")
    chat = [{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "  b \n"}]
    [text] = renderer.texts(chat)
    assert text.text == "<|im_start|>user\n a\n<|im_end|>\n<|im_start|>assistant\n  b \n<|im_end|>\n"
    [tokens] = renderer.encode([text])
    assert _learnt(renderer, tokens) == ["  b \n<|im_end|>"]


@pytest.mark.parametrize("begins", ["", "\n\n", "  ", "\n    ", "\t"])
@pytest.mark.parametrize("name", ["CHATML_DEFAULT", "CHATML_TOOLS", "PHI3", "MISTRAL"])
def test_tokens_do_not_reach_over_the_end_of_a_prompt(make_tokenizer: MakeTokenizer, name: str, begins: str) -> None:
    """White space that an answer begins with would grow together with the prompt's last newline."""
    renderer = _renderer(make_tokenizer, name)
    chat = [*styles.CHAT[:3], {"role": "assistant", "content": begins + "def run"}]
    rows = renderer.encode(renderer.texts(chat))
    prompts = [renderer.template.render(chat[:at], add_generation_prompt=True) for at in (1, 3)]
    expected = sorted(encoding.ids for encoding in renderer.tokenizer.encode(prompts))
    assert sorted(row.input_ids[:start] for row in rows for start, _ in row.trained) == expected
    learnt = [text for row in rows for text in _learnt(renderer, row)]
    end = FAMILIES[name][3]
    space = " " if name == "MISTRAL" else ""  # SentencePiece kinds put one after a special token
    assert sorted(learnt) == sorted([space + "Rack 12, unit 7." + end, space + begins + "def run" + end])


def test_a_header_whose_newlines_split_otherwise_before_text(make_tokenizer: MakeTokenizer) -> None:
    """GPT-2's way: two newlines are one token at a prompt's end, and two tokens before an answer."""
    tokenizer = make_tokenizer(styles.LLAMA3, kind="gpt2", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    renderer = Renderer(tokenizer, tokenizer.serving_template())
    [text] = renderer.texts(styles.CHAT)
    rows = renderer.encode([text])
    assert len(rows) == 2
    for row, (start, _) in zip(rows, text.spans, strict=True):
        assert row.input_ids[: row.trained[0][0]] == tokenizer.encode([text.text[:start]])[0].ids
    assert [_learnt(renderer, row) for row in rows] == [
        ["Rack 12, unit 7.<|eot_id|>"],
        ["Rack 14: see RB-2031, naïve 日本 🙂.<|eot_id|>"],
    ]


def test_text_is_stored_as_the_tokenizer_sees_it(make_tokenizer: MakeTokenizer) -> None:
    """llama-server doesn't compose characters; a tokenizer with NFC does."""
    decomposed = [{"role": "user", "content": "cafe\u0301"}, {"role": "assistant", "content": "e\u0301!"}]
    byte_level, sentencepiece = _renderer(make_tokenizer, "CHATML_DEFAULT"), None
    assert byte_level.stored(decomposed)[0]["content"] == "caf\u00e9"
    [tokens] = byte_level.encode(byte_level.texts(decomposed))
    assert _learnt(byte_level, tokens) == ["\u00e9!<|im_end|>"]
    tokenizer = make_tokenizer(styles.MISTRAL, kind="sentencepiece", eos_token="</s>", name="other")
    sentencepiece = Renderer(tokenizer, tokenizer.serving_template())
    assert sentencepiece.stored(decomposed) == decomposed


ODD_CHAT = [styles.CHAT[0], styles.CHAT[2], styles.CHAT[3]]
CUTS_ANSWERS = styles.PHI3.replace(
    "message['content'] + '<|end|>' }}{% endgen", "message['content'][:9] + '<|end|>' }}{% endgen"
)
CUTS_QUESTIONS = styles.PHI3.replace("message['content'] + '<|end|>\n'", "message['content'][:9] + '<|end|>\n'")
NO_SYSTEM_PHI = styles.PHI3.replace("{% else %}{{ '<|' +", "{% elif message['role'] != 'system' %}{{ '<|' +")


@pytest.mark.parametrize(
    ("template", "chat", "tools", "said"),
    [
        (styles.MISTRAL, ODD_CHAT, None, "refuses this chat: Roles must alternate"),
        (styles.MISTRAL, styles.CHAT, styles.TOOLS, "has no form for tools"),
        (NO_SYSTEM_PHI, FULL, None, None),
        (CUTS_ANSWERS, styles.CHAT, None, "leaves out a part of the answer: 'Rack 12, unit 7.'"),
        (CUTS_QUESTIONS, styles.CHAT, None, "leaves out messages of role user"),
    ],
)
def test_what_a_template_cannot_say_is_an_error(
    make_tokenizer: MakeTokenizer, template: str, chat: list[dict[str, Any]], tools: Any, said: str | None
) -> None:
    tokenizer = make_tokenizer(template, kind="sentencepiece", eos_token="</s>")
    renderer = Renderer(tokenizer, tokenizer.serving_template())
    if said is None:  # a system message that the template drops is joined to the question instead
        assert "Answer in one line.\nWhere is" in renderer.texts(chat)[-1].text
        return
    with pytest.raises(DataError, match=r"the model's chat template") as caught:
        renderer.texts(chat, tools)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (styles.FORCED_THOUGHT, "begins answers otherwise than its generation prompt"),
        ("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}", "ends answers with no special token"),
        ("{{ raise_exception('not today') }}", "can't train through this model's chat template"),
    ],
)
def test_templates_that_cannot_be_trained_through(make_tokenizer: MakeTokenizer, template: str, said: str) -> None:
    tokenizer = make_tokenizer(template)
    with pytest.raises(ModelError, match=said):
        Renderer(tokenizer, template)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("name", ["CHATML_DEFAULT", "LLAMA3", "MISTRAL", "PHI3", "NO_SYSTEM"])
def test_ids_and_mask_equal_those_of_transformers(make_tokenizer: MakeTokenizer, name: str) -> None:
    """transformers makes its mask from the template's own `generation` marks, ours comes from rendered prefixes."""
    from transformers import PreTrainedTokenizerFast

    kind, bos, eos, _ = FAMILIES[name]
    template = getattr(styles, name)
    tokenizer = make_tokenizer(template, kind=kind, bos_token=bos, eos_token=eos)
    renderer = Renderer(tokenizer, template)
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer.folder / "tokenizer.json"), bos_token=bos, eos_token=eos, chat_template=template
    )
    for chat in (styles.CHAT[:2], styles.CHAT, *([FULL] if name not in ("MISTRAL", "NO_SYSTEM") else [])):
        [tokens] = renderer.encode(renderer.texts(chat))
        expected = theirs.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        mask = [0] * len(tokens.input_ids)
        for start, end in tokens.trained:
            mask[start:end] = [1] * (end - start)
        assert tokens.input_ids == expected["input_ids"]
        assert mask == expected["assistant_masks"]
        assert 0 < sum(mask) < len(mask)

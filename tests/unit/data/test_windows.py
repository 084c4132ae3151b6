"""Long conversations: split between turns or cut, never dropped, and no answer lost on the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Literal

import pytest

from halops.data.render import Renderer, Tokens
from halops.data.rows import Conversation
from halops.data.tokenizer import ChatTokenizer
from halops.data.windows import Fitted, Windows, cut, turn_groups
from halops.errors import DataError
from tests import chat_templates as styles

MakeTokenizer = Callable[..., ChatTokenizer]
WORDS = ["rack", "unit", "switch", "backup", "is", "not", "where", "fails", "why", "does", "10.2.33.4", "RB-2031"]


def _windows(
    make_tokenizer: MakeTokenizer,
    limit: int,
    long_rows: Literal["split", "truncate"] = "split",
    *,
    style: str = "CHATML_DEFAULT",
) -> Windows:
    kind = "sentencepiece" if style in ("LAST_SYSTEM", "MISTRAL") else "gpt2"
    eos = "</s>" if kind == "sentencepiece" else "<|im_end|>"
    tokenizer = make_tokenizer(getattr(styles, style), kind=kind, eos_token=eos, add_bos_token=False)
    return Windows(Renderer(tokenizer, tokenizer.serving_template()), limit, long_rows)


def _say(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def _chat(turns: int, *, system: bool = True, words: int = 8, seed: int = 1) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    messages = [{"role": "system", "content": "Answer in one line."}] if system else []
    for _ in range(turns):
        messages.append({"role": "user", "content": _say(chance, chance.randint(1, words))})
        messages.append({"role": "assistant", "content": _say(chance, chance.randint(1, words))})
    return messages


def _fit(windows: Windows, *chats: list[dict[str, Any]], tools: Any = None) -> list[Fitted]:
    results = list(
        windows.fit([Conversation(line, str(line), None, chat, tools) for line, chat in enumerate(chats, 1)])
    )
    assert all(isinstance(result, Fitted) for result in results), results
    return results  # type: ignore[return-value]


def _text(windows: Windows, ids: list[int]) -> str:
    return str(windows.renderer.tokenizer._tokenizer.decode(ids, skip_special_tokens=False))


def _answers(windows: Windows, fitted: Fitted) -> list[str]:
    return [
        _text(windows, row.tokens.input_ids[start:end]).strip()
        for row in fitted.rows
        for start, end in row.tokens.trained
    ]


def test_short_conversations_stay_as_they_are(make_tokenizer: MakeTokenizer) -> None:
    windows = _windows(make_tokenizer, 10_000)
    for chat, fitted in zip([_chat(1), _chat(9)], _fit(windows, _chat(1), _chat(9)), strict=True):
        assert fitted.whole
        assert not fitted.split
        assert fitted.length == len(fitted.rows[0].tokens.input_ids)
        assert _text(windows, fitted.rows[0].tokens.input_ids) == windows.renderer.template.render(chat)


@pytest.mark.parametrize("style", ["CHATML_DEFAULT", "REASONING", "LAST_SYSTEM"])
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("limit", [120, 200, 400])
def test_split_pieces_hold_whole_turns_in_order_after_the_system_message(
    make_tokenizer: MakeTokenizer, style: str, system: bool, limit: int
) -> None:
    windows = _windows(make_tokenizer, limit, style=style)
    chats = [_chat(turns, system=system, seed=turns) for turns in (1, 3, 8, 20)]
    for chat, fitted in zip(chats, _fit(windows, *chats), strict=True):
        assert fitted.split == (fitted.length > limit)
        assert all(len(row.tokens.input_ids) <= limit and not row.cut for row in fitted.rows)
        assert [row.part for row in fitted.rows] == [(n, len(fitted.rows)) for n in range(1, len(fitted.rows) + 1)]
        end = windows.renderer.ends[0]
        thought = "<think>\n\n</think>\n\n" if style == "REASONING" else ""
        said = [thought + message["content"] + end for message in chat if message["role"] == "assistant"]
        assert _answers(windows, fitted) == said  # each once, whole, and in order
        for row in fitted.rows:
            text = _text(windows, row.tokens.input_ids)
            assert ("Answer in one line." in text) == system


def test_very_long_conversations_take_time_in_proportion(make_tokenizer: MakeTokenizer) -> None:
    """Fifteen hundred turns: rendering every prompt from the start would take minutes."""
    windows, chat = _windows(make_tokenizer, 400), _chat(1500)
    began = time.process_time()
    [fitted] = _fit(windows, chat)
    assert time.process_time() - began < 10
    assert fitted.length == windows.renderer.length(chat)
    answers = [message["content"] + "<|im_end|>" for message in chat if message["role"] == "assistant"]
    assert _answers(windows, fitted) == answers
    assert max(len(row.tokens.input_ids) for row in fitted.rows) <= 400
    # Most are well filled, although sizes are only guessed here.
    assert sum(len(row.tokens.input_ids) > 300 for row in fitted.rows) > len(fitted.rows) * 0.9


def test_many_short_turns_that_fit_stay_whole(make_tokenizer: MakeTokenizer) -> None:
    windows, chat = _windows(make_tokenizer, 100_000), _chat(60)
    [fitted] = _fit(windows, chat)
    assert fitted.whole
    assert len(_answers(windows, fitted)) == 60


def test_pieces_are_as_full_as_they_can_be(make_tokenizer: MakeTokenizer) -> None:
    windows = _windows(make_tokenizer, 200)
    chat = _chat(30)
    [fitted] = _fit(windows, chat)
    groups = turn_groups(chat)
    done = 0
    for row in fitted.rows[:-1]:
        done += len(row.tokens.trained)
        grown = [chat[0], *(m for group in groups[done - len(row.tokens.trained) : done + 1] for m in group)]
        assert windows.renderer.length(grown) > 200
    assert len(fitted.rows) < 15


def test_a_turn_that_is_too_long_alone_is_cut_and_counted(make_tokenizer: MakeTokenizer) -> None:
    windows = _windows(make_tokenizer, 100)
    chance = random.Random(5)
    long_answer = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": _say(chance, 300)}]
    long_question = [{"role": "user", "content": _say(chance, 300)}, {"role": "assistant", "content": "Yes."}]
    short = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Rack 12."}]
    [fitted] = _fit(windows, [*short, *long_answer, *long_question, *short])
    assert [row.cut for row in fitted.rows] == [False, True, True, False]
    assert fitted.split
    assert all(0 < len(row.tokens.input_ids) <= 100 for row in fitted.rows)
    answers = _answers(windows, fitted)
    assert long_answer[1]["content"].startswith(answers[1])
    assert len(answers[1]) > 50
    assert answers[2] == "Yes.<|im_end|>"  # its prompt was cut from the left instead
    assert _text(windows, fitted.rows[2].tokens.input_ids).endswith("<|im_start|>assistant\nYes.<|im_end|>")


def test_truncate_keeps_the_beginning(make_tokenizer: MakeTokenizer) -> None:
    windows, chat = _windows(make_tokenizer, 150, "truncate"), _chat(20)
    [fitted] = _fit(windows, chat)
    assert not fitted.split
    [row] = fitted.rows
    assert row.cut
    assert not fitted.whole
    assert len(row.tokens.input_ids) == 150
    assert windows.renderer.template.render(chat).startswith(_text(windows, row.tokens.input_ids))


def test_every_row_trains_something_whatever_the_lengths(make_tokenizer: MakeTokenizer) -> None:
    chance = random.Random(9)
    chats = [
        _chat(chance.randint(1, 6), system=bool(n % 2), words=chance.choice([1, 5, 60]), seed=n) for n in range(60)
    ]
    renderer = _windows(make_tokenizer, 16).renderer
    policies: tuple[Literal["split", "truncate"], ...] = ("split", "truncate")
    for policy in policies:
        for limit in (16, 17, 40, 333):
            for fitted in _fit(Windows(renderer, limit, policy), *chats):
                assert fitted.rows
                for row in fitted.rows:
                    _assert_sound(row.tokens, limit)


def _assert_sound(tokens: Tokens, limit: int) -> None:
    assert 0 < len(tokens.input_ids) <= limit
    assert tokens.trained
    at = 1  # the first token has nothing before it
    for start, end in tokens.trained:
        assert at <= start < end <= len(tokens.input_ids)
        at = end


@pytest.mark.parametrize(
    ("trained", "limit", "expected"),
    [
        ([(5, 8), (12, 15)], 20, ([*range(20)], [(5, 8), (12, 15)])),
        ([(5, 8), (12, 15)], 13, ([*range(13)], [(5, 8), (12, 13)])),
        ([(5, 8), (12, 15)], 6, ([*range(6)], [(5, 6)])),
        ([(12, 15), (18, 20)], 6, ([0, 10, 11, 12, 13, 14], [(3, 6)])),
        ([(12, 20)], 8, ([0, *range(9, 16)], [(4, 8)])),
        ([(19, 20)], 4, ([0, 17, 18, 19], [(3, 4)])),
    ],
)
def test_cut(trained: list[tuple[int, int]], limit: int, expected: tuple[list[int], list[tuple[int, int]]]) -> None:
    tokens = cut(Tokens(list(range(20)), trained), limit)
    assert (tokens.input_ids, tokens.trained) == expected


def test_turn_groups() -> None:
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "user", "assistant"]
    groups = turn_groups([{"role": role} for role in roles])
    assert [[message["role"] for message in group] for group in groups] == [
        ["user", "assistant", "tool", "assistant"],
        ["user", "user", "assistant"],
    ]


def test_a_row_that_the_template_refuses_does_not_stop_the_others(make_tokenizer: MakeTokenizer) -> None:
    windows = _windows(make_tokenizer, 1000, style="MISTRAL")
    refused = [styles.CHAT[0], styles.CHAT[2], styles.CHAT[3]]
    chats = [
        Conversation(n, "x", None, chat, None) for n, chat in enumerate([_chat(2, system=False), refused, _chat(1)])
    ]
    first, second, third = windows.fit(chats)
    assert isinstance(first, Fitted)
    assert isinstance(third, Fitted)
    assert isinstance(second, tuple)
    conversation, error = second
    assert conversation.line == 1
    assert isinstance(error, DataError)
    assert "Roles must alternate" in error.what

"""Which answers count as ended, and which questions are asked."""

from typing import Any

import pytest

from halops.chat import Answer
from halops.verify.chats import Chat
from halops.verify.stops import Question, choose_questions, stop_problem

ASK, SAY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a b c"}
END, START = 2, 1


def _chat(name: str = "c", answer: dict[str, Any] = SAY, tools: tuple[Any, ...] = (), length: int = 4) -> Chat:
    ids = (START, 9, *range(10, 10 + length - 1), END)
    return Chat(name, (ASK, answer), tools, ids, ((2, 2 + length),))


def _answer(tokens: list[int], reason: str = "stop", text: str = "a b c") -> Answer:
    return Answer(text, reason, raw={"__verbose": {"tokens": tokens}})


def test_an_answer_that_ends_as_trained_passes() -> None:
    assert stop_problem(Question(_chat(), 8), _answer([10, 11, END]), frozenset({START, END})) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_answer([10, 11], reason="length"), "ran on past 8 tokens"),
        (_answer([10, 0]), "ended with token 0, the trained end token is 2"),
        (_answer([]), "ended with token None"),
        (_answer([10, START, 11, END]), "control token 1 inside"),
        (_answer([END], text=" "), "no text"),
    ],
)
def test_other_ends_are_explained(answer: Answer, words: str) -> None:
    problem = stop_problem(Question(_chat(), 8), answer, frozenset({START, END}))
    assert problem is not None
    assert problem.startswith("conversation c: ")
    assert words in problem


def test_questions_have_room_for_twice_their_answer() -> None:
    chats = [_chat("short"), _chat("long", length=200)]
    assert [(item.chat.id, item.limit) for item in choose_questions(chats, 5, 160)] == [("short", 160), ("long", 400)]


def test_calls_of_tools_are_not_asked_for() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{}]}
    chats = [_chat("call", call), _chat("tools", tools=({},)), _chat("plain")]
    assert [item.chat.id for item in choose_questions(chats, 5, 160)] == ["plain"]
    assert choose_questions(chats, 0, 160) == []

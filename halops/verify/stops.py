"""Held-out questions, asked greedily: the model sees the trained ids, and its answer ends at the stop token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halops.chat import Answer
from halops.llamacpp.client import LlamaClient
from halops.verify.chats import Chat, Turn
from halops.verify.parity import Mismatch, difference

# Greedy, and the same whatever was asked before: nothing is taken over from the last prompt.
GREEDY: dict[str, Any] = {"temperature": 0, "cache_prompt": False, "seed": 0}


@dataclass(frozen=True)
class Question:
    """A held-out question: the first assistant turn of a conversation, and how many tokens an answer may have."""

    chat: Chat
    limit: int

    @property
    def turn(self) -> Turn:
        """The turn that is asked for."""
        return self.chat.turns[0]

    @property
    def text(self) -> str:
        """The user's words."""
        return str(self.turn.prompt[-1]["content"])


def choose_questions(chats: Sequence[Chat], count: int, tokens: int) -> list[Question]:
    """The first `count` conversations whose answers are text, each with room for twice its own answer.

    Args:
        tokens: `verify.answer_tokens`, the least room.
    """
    usable = [chat for chat in chats if chat.turns and chat.turns[0].answer["content"] and not chat.tools]
    return [Question(chat, max(tokens, 2 * (chat.turns[0].end - chat.turns[0].start))) for chat in usable[:count]]


@dataclass(frozen=True)
class Asked:
    """One answer. `problem` says why it doesn't count as ended; `mismatch` where the model saw other ids."""

    question: Question
    answer: Answer
    problem: str | None = None
    mismatch: Mismatch | None = None


def ask(client: LlamaClient, question: Question, control: frozenset[int], slots: Path) -> Asked:
    """Ask one question through the chat endpoint, then read back what the model really saw.

    Args:
        control: ids of control tokens; none may be in an answer but the one that ends it.
        slots: the server's `--slot-save-path`.
    """
    prompt = question.turn.prompt
    answer = client.complete(prompt, max_tokens=question.limit, verbose=True, return_tokens=True, id_slot=0, **GREEDY)
    trained = question.chat.input_ids[: question.turn.start]
    seen = client.slot_ids(slots)[: answer.usage["prompt_tokens"]]
    mismatch = difference(client, question.chat, "what the chat endpoint fed to the model", trained, seen)
    return Asked(question, answer, stop_problem(question, answer, control), mismatch)


def stop_problem(question: Question, answer: Answer, control: frozenset[int]) -> str | None:
    """Why an answer didn't end as trained: cut off, ended by another token, or with a control token inside."""
    chat = question.chat
    if answer.finish_reason != "stop":
        return f"conversation {chat.id}: the answer ran on past {question.limit} tokens: {answer.text[-60:]!r}"
    tokens = [int(token) for token in (answer.raw.get("__verbose") or {}).get("tokens") or ()]
    expected = chat.input_ids[question.turn.end - 1]
    if not tokens or tokens[-1] != expected:
        last = tokens[-1] if tokens else None
        return f"conversation {chat.id}: the answer ended with token {last}, the trained end token is {expected}"
    inside = [token for token in tokens[:-1] if token in control]
    if inside or not answer.text.strip():
        what = f"control token {inside[0]} inside" if inside else "no text"
        return f"conversation {chat.id}: the answer has {what}: {answer.text[:60]!r}"
    return None

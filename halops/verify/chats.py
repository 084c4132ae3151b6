"""Conversations beside the token ids that training made of them, as the data stage leaves both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from halops.errors import IntegrityError

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One assistant turn: the messages before it, and where its tokens are in the row."""

    prompt: tuple[Message, ...]
    answer: Message
    start: int
    end: int


@dataclass(frozen=True)
class Chat:
    """One conversation and the row that begins with it.

    `input_ids` are the row's tokens; `trained` the half-open spans with loss, one for each assistant turn, or for
    the first ones where the conversation became several rows.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Any, ...]
    input_ids: tuple[int, ...]
    trained: tuple[tuple[int, int], ...]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The assistant's turns that are in the row, each with its span."""
        places = [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]
        return tuple(
            Turn(self.messages[:index], self.messages[index], *span)
            for index, span in zip(places, self.trained, strict=False)
        )


def sample_chats(data: Path, limit: int, longest: int) -> list[Chat]:
    """Up to `limit` conversations, taken in turn from the training samples and from the held-out ones."""
    pairs = zip_longest(training_chats(data), heldout_chats(data, longest))
    return [chat for pair in pairs for chat in pair if chat is not None][:limit]


def training_chats(data: Path) -> Iterator[Chat]:
    """The conversations of train.samples.jsonl."""
    for row in _rows(data / "train.samples.jsonl"):
        yield from _chat(row, row)


def heldout_chats(data: Path, longest: int) -> Iterator[Chat]:
    """The held-out conversations, each with its row; one that became several rows is left out, since a row may then
    begin in the midst of it.

    Args:
        longest: `training.max_seq_length`; a row of that length may have been cut, and is left out.
    """
    whole = {row["line"]: row for row in _rows(data / "heldout.jsonl") if not row.get("part")}
    for chat in _rows(data / "heldout.messages.jsonl"):
        found = whole.get(chat["line"])
        if found and len(found["input_ids"]) < longest:
            yield from _chat(chat, found)


def _chat(chat: dict[str, Any], row: dict[str, Any]) -> Iterator[Chat]:
    """The chat, unless an answer begins with white space: that can grow together with the prompt's end."""
    answers = [message for message in chat["messages"] if message["role"] == "assistant"]
    if not any(answer["content"][:1].isspace() for answer in answers):
        spans = tuple((int(start), int(end)) for start, end in row["trained"])
        yield Chat(
            str(chat["id"]), tuple(chat["messages"]), tuple(chat.get("tools") or ()), tuple(row["input_ids"]), spans
        )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"the data stage's output can't be read: {error}", where=str(path)) from error

"""Conversations that are longer than a training row may be: split at turn boundaries, or cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from halops.data.messages import Message
from halops.data.render import Renderer, Span, Text, Tokens
from halops.data.rows import Conversation
from halops.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row to train on.

    `part` is (number, of how many) where a conversation was made into several rows. `cut`: tokens are missing.
    """

    tokens: Tokens
    part: tuple[int, int] = (1, 1)
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of one conversation.

    `length` is its length in tokens before anything was done; `split`: at a turn boundary; `apart`: rows for turns
    that the template writes differently once others follow.
    """

    conversation: Conversation
    rows: tuple[Row, ...]
    length: int
    split: bool
    apart: int

    @property
    def whole(self) -> bool:
        """Whether the one row is the conversation as it is."""
        return len(self.rows) == 1 and not self.rows[0].cut


class Windows:
    """Makes rows of at most `limit` tokens.

    Args:
        limit: `training.max_seq_length`.
        long_rows: `split` cuts a conversation between turns, each piece with the system message and whole turns, from
            a user's to an assistant's; a single turn that is too long even so is cut. `truncate` always cuts.
    """

    def __init__(self, renderer: Renderer, limit: int, long_rows: Literal["split", "truncate"]) -> None:
        self.renderer = renderer
        self.limit = limit
        self._split = long_rows == "split"

    def fit(self, conversations: Sequence[Conversation]) -> Iterator[Fitted | tuple[Conversation, DataError]]:
        """Rows of each conversation, in order; or the reason why it can't be trained on.

        Texts are tokenized together, on all cores.
        """
        rendered = [(conversation, self._texts(conversation)) for conversation in conversations]
        batch = [text.text for _, texts in rendered if isinstance(texts, list) for text in texts]
        encodings = iter(self.renderer.tokenizer.encode(batch))
        for conversation, texts in rendered:
            if isinstance(texts, DataError):
                yield conversation, texts
                continue
            pairs = [(text, next(encodings)) for text in texts]
            try:
                yield self._fit(conversation, [self.renderer.tokens(*pair) for pair in pairs])
            except DataError as error:  # a piece of it can be refused where the whole isn't
                yield conversation, error

    def _texts(self, conversation: Conversation) -> list[Text] | DataError:
        try:
            return self.renderer.texts(conversation.messages, conversation.tools)
        except DataError as error:
            return error

    def _fit(self, conversation: Conversation, tokens: list[Tokens]) -> Fitted:
        length = len(tokens[-1].input_ids)
        groups = turn_groups(conversation.messages)
        split = length > self.limit and self._split and len(groups) > 1
        pieces = self._pieces(conversation, groups) if split else tokens
        rows = [self._cut(piece) for piece in pieces]
        numbered = [Row(row.tokens, (number, len(rows)), row.cut) for number, row in enumerate(rows, 1)]
        return Fitted(conversation, tuple(numbered), length, split, 0 if split else len(tokens) - 1)

    def _pieces(self, conversation: Conversation, groups: list[list[Message]]) -> list[Tokens]:
        """Greedily, as many turns as fit into each piece."""
        head = conversation.messages[:1] if conversation.messages[0]["role"] == "system" else []
        texts: list[Text] = []
        at = 0
        while at < len(groups):
            count = self._fitting(conversation, head, groups[at:])
            messages = [*head, *(message for group in groups[at : at + count] for message in group)]
            texts += self.renderer.texts(messages, conversation.tools)
            at += count
        return self.renderer.encode(texts)

    def _fitting(self, conversation: Conversation, head: list[Message], groups: list[list[Message]]) -> int:
        """How many of `groups` fit into one piece, at least 1: guessed from sizes, then measured."""

        def fits(count: int) -> bool:
            messages = [*head, *(message for group in groups[:count] for message in group)]
            return self.renderer.length(messages, conversation.tools) <= self.limit

        count = min(len(groups), self._guess(groups))
        if fits(count):
            while count < len(groups) and fits(count + 1):
                count += 1
            return count
        while count > 1 and not fits(count - 1):
            count -= 1
        return max(1, count - 1)

    def _guess(self, groups: list[list[Message]]) -> int:
        room, count = self.limit * 4, 0  # about four characters a token
        for group in groups:
            room -= sum(len(message["content"]) + 20 for message in group)
            if room < 0:
                break
            count += 1
        return max(1, count)

    def _cut(self, tokens: Tokens) -> Row:
        if len(tokens.input_ids) <= self.limit:
            return Row(tokens)
        return Row(cut(tokens, self.limit), cut=True)


def turn_groups(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages after the system's in groups, each a user's turn (or several in a row) and all that answers it."""
    groups: list[list[Message]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if not groups or (message["role"] == "user" and groups[-1][-1]["role"] != "user"):
            groups.append([])
        groups[-1].append(message)
    return groups


def cut(tokens: Tokens, limit: int) -> Tokens:
    """The first `limit` tokens if any of them is trained on.

    Otherwise the prompt is cut from its left: what is kept begins with the first token (a BOS, where there is one) and
    ends in the answer, at most half of the row.
    """
    first = tokens.trained[0]
    if first[0] < limit:
        return Tokens(tokens.input_ids[:limit], _clip(tokens.trained, 0, limit))
    end = min(first[1], first[0] + limit // 2)
    start = end - (limit - 1)
    kept = _clip(tokens.trained, start, end)
    shifted = [(begin + 1, stop + 1) for begin, stop in kept]
    return Tokens([tokens.input_ids[0], *tokens.input_ids[start:end]], shifted)


def _clip(spans: Sequence[Span], start: int, end: int) -> list[Span]:
    """Spans within [start, end), counted from `start`."""
    return [(max(a, start) - start, min(b, end) - start) for a, b in spans if a < end and b > start]

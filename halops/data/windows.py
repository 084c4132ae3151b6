"""Conversations that are longer than a training row may be: split at turn boundaries, or cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from halops.data.messages import Message
from halops.data.render import Renderer, Span, Text, Tokens
from halops.data.rows import Conversation
from halops.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Encoding

MANY = 100  # messages; the prompts of all their turns, each rendered, would grow with the square of their number


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
        self._heads: dict[str, int] = {}

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
                yield self._fit(conversation, pairs)
            except DataError as error:  # a piece of it can be refused where the whole isn't
                yield conversation, error

    def _texts(self, conversation: Conversation) -> list[Text] | DataError:
        messages, tools = conversation.messages, conversation.tools
        try:
            if self._split and len(messages) > MANY:
                return [Text(self.renderer.whole(messages, tools), ())]
            return self.renderer.texts(messages, tools)
        except DataError as error:
            return error

    def _fit(self, conversation: Conversation, pairs: list[tuple[Text, Encoding]]) -> Fitted:
        length = len(pairs[-1][1].ids)
        groups = turn_groups(conversation.messages)
        split = length > self.limit and self._split and len(groups) > 1
        tokens = [row for pair in pairs for row in self.renderer.rows(*pair)]
        if not tokens and not split:
            tokens = self.renderer.encode(self.renderer.texts(conversation.messages, conversation.tools))
        pieces = self._pieces(conversation, groups, tokens, length) if split else tokens
        rows = [self._cut(piece) for piece in pieces]
        numbered = [Row(row.tokens, (number, len(rows)), row.cut) for number, row in enumerate(rows, 1)]
        return Fitted(conversation, tuple(numbered), length, split, 0 if split else len(tokens) - 1)

    def _pieces(
        self, conversation: Conversation, groups: list[list[Message]], whole: list[Tokens], length: int
    ) -> list[Tokens]:
        """As many turns as fit into each piece, from the first on."""
        head = conversation.messages[:1] if conversation.messages[0]["role"] == "system" else []
        ends = [end for _, end in whole[-1].trained] if whole else []
        sizes = self._sizes(head, groups, ends, length)
        pieces: list[Tokens] = []
        at = 0
        while at < len(groups):
            count = max(1, _fitting(sizes[at:], self.limit - self._length(head)))
            while True:
                messages = [*head, *(message for group in groups[at : at + count] for message in group)]
                tokens = self.renderer.encode(self.renderer.texts(messages, conversation.tools))
                if count == 1 or all(len(row.input_ids) <= self.limit for row in tokens):
                    break
                count -= 1  # sizes are exact for most templates, not for all
            pieces += tokens
            at += count
        return pieces

    def _sizes(self, head: list[Message], groups: list[list[Message]], ends: list[int], length: int) -> list[float]:
        """Tokens of each group: from one answer's end to the next; by characters, where not all ends are known."""
        answers = [sum(message["role"] == "assistant" for message in group) for group in groups]
        if sum(answers) == len(ends):
            ends = [*(ends[last - 1] for last in accumulate(answers[:-1])), length]
            return [end - start for start, end in pairwise((self._length(head), *ends))]
        characters = [sum(len(message["content"]) + 20 for message in group) for group in groups]
        return [size * length / sum(characters) for size in characters]

    def _length(self, head: list[Message]) -> int:
        """Tokens of the system message alone; 0 without one, or if the template refuses it alone."""
        if not head:
            return 0
        key = head[0]["content"]
        if key not in self._heads:
            try:
                self._heads = {key: self.renderer.length(head)}  # rows of one kind tend to follow one another
            except DataError:
                self._heads = {key: 0}
        return self._heads[key]

    def _cut(self, tokens: Tokens) -> Row:
        if len(tokens.input_ids) <= self.limit:
            return Row(tokens)
        return Row(cut(tokens, self.limit), cut=True)


def _fitting(sizes: Sequence[float], room: float) -> int:
    """How many of the first sizes fit into the room."""
    return sum(total <= room for total in accumulate(sizes))


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

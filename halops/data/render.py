"""A conversation as token ids, and which of them are the assistant's.

For each assistant turn the server is asked with the chat before it, rendered with a generation prompt. What the
template writes after exactly that text, up to the end-of-turn token, is what the model has to learn: those tokens
and no others carry loss. The mask is made from rendered text, so it holds for any template.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from halops.chat_template import ChatTemplate, takes_argument_objects, takes_system
from halops.data.messages import Message
from halops.data.tokenizer import ChatTokenizer
from halops.errors import DataError, ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding

Span = tuple[int, int]  # half-open


@dataclass(frozen=True, slots=True)
class Text:
    """A rendered chat; `spans` are the characters that the assistant writes, in order."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of a rendered chat; `trained` are the spans of ids with loss, in order, never empty."""

    input_ids: list[int]
    trained: list[Span]


class Renderer:
    """Chats to token ids, through one template.

    Args:
        tokenizer: the model's.
        template: the serving template.

    Raises:
        ModelError: the template isn't valid, or training through it could not match serving.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: str) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(template, bos=tokenizer.bos, eos=tokenizer.eos)
        self._special = re.compile("|".join(map(re.escape, tokenizer.special)) or r"(?!)")
        self._tails: dict[str, list[int]] = {}
        self.ends = self._end_texts()
        self._ends = re.compile("|".join(map(re.escape, self.ends)))

    def texts(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> list[Text]:
        """The chat as text, in as many pieces as needed for every assistant turn to be learnt as it will be served.

        Most templates need one: the whole chat. Some write a turn differently once others follow it (they drop its
        reasoning, or move the system message to the last question): such a turn comes as a piece of its own that
        ends with it. The last piece is the whole chat.

        Raises:
            DataError: the template refuses the chat, or leaves a part of it out.
        """
        chat = self._as_served(messages)
        tools = tools or None
        whole = self.template.render(chat, tools)
        self._check_complete(chat, tools, whole)
        spans: list[Span] = []
        pieces: list[Text] = []
        for index, message in enumerate(chat):
            if message["role"] != "assistant":
                continue
            prompt = self.template.render(chat[:index], tools, add_generation_prompt=True)
            so_far = whole if index == len(chat) - 1 else self.template.render(chat[: index + 1], tools)
            answer = self._answer(prompt, so_far, message)
            span = (len(prompt), len(prompt) + len(answer))
            if whole.startswith(prompt + answer):
                spans.append(span)
            else:
                pieces.append(Text(prompt + answer, (span,)))
        return [*pieces, Text(whole, tuple(spans))]

    def encode(self, texts: Sequence[Text]) -> list[Tokens]:
        """Token ids and trained spans of every text, as `rows` makes them."""
        encodings = self.tokenizer.encode([text.text for text in texts])
        return [row for text, encoding in zip(texts, encodings, strict=True) for row in self.rows(text, encoding)]

    def rows(self, text: Text, encoding: Encoding) -> list[Tokens]:
        """Token ids and trained spans out of a text's encoding: one row, unless tokens reach over a prompt's end.

        The server tokenizes a prompt alone. Where its ids aren't those in the middle of the whole text (white space
        that an answer begins with grows together with the prompt's last newline), the turn gets a row of its own:
        the ids of its prompt alone, then the answer's.

        Raises:
            DataError: an assistant turn has no token of its own, so nothing would be learnt from it.
        """
        here: list[Span] = []
        apart: list[Tokens] = []
        for start, end in text.spans:
            first, last = _token_span(encoding, start, end)
            if first >= last:
                raise DataError("an assistant turn has no token of its own: nothing would be learnt from it")
            tail = self._tail(text.text[:start])
            if encoding.ids[first - len(tail) : first] == tail:
                here.append((first, last))
            else:
                prompt = self.tokenizer.encode([text.text[:start]])[0].ids
                ids = [*prompt, *self._answer_ids(text.text[start:end])]
                apart.append(Tokens(ids, [(len(prompt), len(ids))]))
        return [*apart, Tokens(list(encoding.ids), here)] if here else apart

    def length(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> int:
        """Number of tokens of the whole chat."""
        return len(self.tokenizer.encode([self.whole(messages, tools)])[0].ids)

    def whole(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> str:
        """The whole chat as text."""
        return self.template.render(self._as_served(messages), tools)

    def stored(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with their text as the tokenizer sees it (NFC where it does that), so that llama-server, which
        doesn't, makes the same ids of them."""
        if not self.tokenizer.normalises_unicode:
            return list(messages)
        return [{**message, "content": unicodedata.normalize("NFC", message["content"])} for message in messages]

    @cached_property
    def _takes_system(self) -> bool:
        return takes_system(self.template)

    @cached_property
    def _takes_objects(self) -> bool:
        return takes_argument_objects(self.template)

    def _as_served(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as llama-server hands them to a template."""
        chat = self.stored(messages)
        if not self._takes_objects:
            chat = [_arguments_as_text(message) for message in chat]
        if chat[0]["role"] == "system" and not self._takes_system and len(chat) > 1:
            system, first, *rest = chat
            chat = [{**first, "content": f"{system['content']}\n{first['content']}"}, *rest]
        return chat

    def _answer(self, prompt: str, so_far: str, message: Message) -> str:
        """What the template writes of the assistant's turn after the prompt, up to and with its end token."""
        if not so_far.startswith(prompt):
            raise DataError(
                "the model's chat template begins an answer otherwise than its generation prompt does: "
                f"{prompt[-20:]!r} asks for it"
            )
        end = self._ends.search(so_far, len(prompt))
        if end is None:
            raise DataError("the model's chat template ends this answer with no end-of-turn token")
        answer = so_far[len(prompt) : end.end()]
        missing = [text for text in _said(message) if text not in answer]
        if missing:
            raise DataError(f"the model's chat template leaves out a part of the answer: {missing[0][:40]!r}")
        return answer

    def _check_complete(self, chat: Sequence[Message], tools: Sequence[Any] | None, whole: str) -> None:
        for message in chat:
            if message["role"] != "assistant" and message["content"].strip() not in whole:
                raise DataError(f"the model's chat template leaves out messages of role {message['role']}")
        if tools and not any(tool["function"]["name"] in whole for tool in tools):
            raise DataError("the model's chat template has no form for tools")

    def _tail(self, prompt: str) -> list[int]:
        """Ids of a prompt's end, from its last special token on: what stands before that can't change them."""
        places = list(self._special.finditer(prompt, max(0, len(prompt) - 256))) or list(self._special.finditer(prompt))
        tail = prompt[places[-1].start() if places else 0 :]
        if tail not in self._tails:
            if len(self._tails) > 1000:
                self._tails.clear()
            self._tails[tail] = self.tokenizer.encode([tail])[0].ids
        return self._tails[tail]

    def _answer_ids(self, answer: str) -> list[int]:
        """Ids of an answer that follows other text; at the very beginning a SentencePiece kind would put in a space."""
        lead: list[int] = []
        ids: list[int] = []
        for before in ("\n", "0", ""):
            before = self.ends[0] + before
            lead, ids = (encoding.ids for encoding in self.tokenizer.encode([before, before + answer]))
            if ids[: len(lead)] == lead:
                break
        return ids[len(lead) :]

    def _end_texts(self) -> list[str]:
        """Special tokens that end an answer: the one that the template writes, and those that the model names."""
        question, answer = {"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}
        try:
            prompt = self.template.render([question], add_generation_prompt=True)
            text = self.template.render([question, answer])
        except DataError as error:
            raise ModelError(f"can't train through this model's chat template: {error.what}") from error
        if not text.startswith(prompt):
            raise ModelError(
                "the model's chat template begins answers otherwise than its generation prompt asks for them "
                f"({prompt[-20:]!r}): what is trained would not be what is served",
                remedy="take a model that isn't made to reason first, or give its folder a template that agrees",
            )
        end = self._special.search(text, text.index("Answer", len(prompt)))
        if end is None:
            raise ModelError(
                "the model's chat template ends answers with no special token: the model would never learn to stop",
                remedy="give the model's folder a chat template that ends answers with its eos_token",
            )
        return sorted({end[0], *self.tokenizer.ends}, key=len, reverse=True)


def _token_span(encoding: Encoding, start: int, end: int) -> Span:
    """Tokens that lie in characters [start, end). One that begins before `start` belongs to the prompt."""
    first = _first_token(encoding, range(start, end))
    last = _first_token(encoding, range(end - 1, start - 1, -1))
    if first is None or last is None:
        return 0, 0
    while first <= last and (encoding.token_to_chars(first) or (start,))[0] < start:
        first += 1
    return first, last + 1


def _first_token(encoding: Encoding, characters: range) -> int | None:
    """The first token found; white space that a tokenizer drops belongs to none."""
    for at in characters:
        found: int | None = encoding.char_to_token(at)
        if found is not None:
            return found
    return None


def _said(message: Message) -> list[str]:
    """Texts that must show in the rendered answer."""
    calls = message.get("tool_calls") or ()
    said = [message["content"].strip(), *(call["function"]["name"] for call in calls)]
    return [text for text in said if text]


def _arguments_as_text(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [{**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
                 for call in calls]  # fmt: skip
    return {**message, "tool_calls": functions}

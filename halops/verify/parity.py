"""Template parity: the token ids that llama-server makes of a conversation are those that were trained on.

A model that was trained through one template and is served through another sees tokens it never learnt, and nothing
says so: it only answers worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from halops.llamacpp.client import LlamaClient
from halops.verify.chats import Chat, Turn


@dataclass(frozen=True)
class Mismatch:
    """The first place where a conversation's ids differ; an id and its text are None past the shorter one's end."""

    chat: str
    what: str
    position: int
    trained: int | None
    served: int | None
    trained_text: str | None
    served_text: str | None

    def __str__(self) -> str:
        trained = "nothing" if self.trained is None else f"{self.trained} {self.trained_text!r}"
        served = "nothing" if self.served is None else f"{self.served} {self.served_text!r}"
        return f"conversation {self.chat}, {self.what}, token {self.position}: trained on {trained}, served {served}"

    def to_json(self) -> dict[str, object]:
        """For parity.json."""
        return asdict(self)


def check_chat(client: LlamaClient, chat: Chat) -> Mismatch | None:
    """Compare one conversation, turn by turn.

    For each assistant turn: the prompt that the server renders and tokenizes is the row up to that turn. Then the
    prompt's text with the trained text of the answer, tokenized by the server, is the row up to the answer's end:
    so the file's tokenizer agrees on the answers as well.
    """
    for number, turn in enumerate(chat.turns, 1):
        text = client.render(turn.prompt, chat.tools)
        served = client.tokenize(text)
        found = difference(client, chat, f"prompt of answer {number}", chat.input_ids[: turn.start], served)
        found = found or _check_answer(client, chat, turn, number, text)
        if found:
            return found
    return None


def _check_answer(client: LlamaClient, chat: Chat, turn: Turn, number: int, prompt: str) -> Mismatch | None:
    answer = client.detokenize(chat.input_ids[turn.start : turn.end])
    served = client.tokenize(prompt + answer)
    return difference(client, chat, f"answer {number}", chat.input_ids[: turn.end], served)


def difference(
    client: LlamaClient, chat: Chat, what: str, trained: Sequence[int], served: Sequence[int]
) -> Mismatch | None:
    """The first difference between two lists of ids, or None if they are equal."""
    if list(trained) == list(served):
        return None
    shorter = min(len(trained), len(served))
    position = next((i for i in range(shorter) if trained[i] != served[i]), shorter)
    ours, theirs = (row[position] if position < len(row) else None for row in (trained, served))
    return Mismatch(chat.id, what, position, ours, theirs, _text(client, ours), _text(client, theirs))


def _text(client: LlamaClient, token: int | None) -> str | None:
    return None if token is None else client.detokenize([token])

"""What llama-server can say beyond chat: how it renders messages, which ids it makes, what a slot really holds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halops.chat import ChatClient, Message
from halops.errors import TransientError

SLOT_MAGIC = 0x67677371  # "ggsq", LLAMA_STATE_SEQ_MAGIC in include/llama.h
SLOT_BYTES = 4 * 2**20  # ids come first: enough for a million of them


class LlamaClient(ChatClient):
    """A chat client that knows llama-server's own endpoints. Raises what ChatClient raises."""

    def render(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> str:
        """The prompt text that the chat endpoint makes of a conversation, with its generation prompt."""
        body: dict[str, Any] = {"messages": [dict(message) for message in messages]}
        if tools:
            body["tools"] = list(tools)
        return str(self.post("/apply-template", body)["prompt"])

    def tokenize(self, text: str) -> list[int]:
        """Ids as the chat endpoint makes them: BOS if the model wants one, control tokens recognised."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return [int(token) for token in self.post("/tokenize", body)["tokens"]]

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of some ids, control tokens written out."""
        return str(self.post("/detokenize", {"tokens": list(ids)})["content"])

    def slot_ids(self, folder: Path, name: str = "slot.bin", slot: int = 0) -> list[int]:
        """The ids in a slot's cache: what the model really saw, and what it wrote.

        Args:
            folder: the server's `--slot-save-path`.

        The file is int32 words: magic, version, a count of what follows, two reserved words or more, then `n` and n
        ids, and the cache's tensors.
        """
        self.post(f"/slots/{slot}?action=save", {"filename": name})
        path = folder / name
        try:
            with path.open("rb") as stream:
                return parse_slot(stream.read(SLOT_BYTES))
        finally:
            path.unlink(missing_ok=True)


def parse_slot(data: bytes) -> list[int]:
    """The ids in a saved slot. Raises TransientError if it isn't one."""
    words = struct.unpack_from(f"<{len(data) // 4}i", data)
    if len(words) < 6 or words[0] != SLOT_MAGIC or len(words) < 6 + words[5]:
        raise TransientError("llama-server wrote a slot file of an unknown layout")
    return list(words[6 : 6 + words[5]])

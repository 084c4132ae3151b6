"""The held-out split: by what a conversation says, so that neither row order nor a repeated row changes it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from halops.data.messages import Message
from halops.errors import DataError

KEY_BYTES = 16


def conversation_key(messages: Sequence[Message], tools: Any = None) -> bytes:
    """16 bytes that are equal for conversations that differ only in white space, case, id or domain."""
    said = [[message["role"], _plain(message["content"]), message.get("tool_calls")] for message in messages]
    return _digest([said, tools])


def split_key(messages: Sequence[Message]) -> bytes:
    """As `conversation_key`, but system messages and tools don't count: the same questions and answers under another
    system message would be known from training all the same."""
    return conversation_key([message for message in messages if message["role"] != "system"])


def held_out(keys: Collection[bytes], fraction: float) -> frozenset[bytes]:
    """The keys to hold out: those in the lowest `fraction` of the hash space, at least one, and not all.

    Args:
        keys: one for each conversation; repeated ones count once.
        fraction: between 0 and 1.

    Raises:
        DataError: fewer than two different conversations.
    """
    ordered = sorted(set(keys))
    if len(ordered) < 2:
        raise DataError(
            "a dataset needs at least two different conversations: one to train on, one to hold out",
            remedy="add rows; rows that differ only in the system message count as one",
        )
    limit = int(fraction * 2**64)
    below = [key for key in ordered if int.from_bytes(key[:8], "big") < limit]
    return frozenset(below[: len(ordered) - 1] or ordered[:1])


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]

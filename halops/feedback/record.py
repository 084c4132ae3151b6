"""One rated answer: a JSON line that `halops chat`, or any service that asks its users, may write."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from halops.artifact import Frozen, now
from halops.errors import HostError

Rating = Literal["good", "bad"]


class ChatRecord(Frozen):
    """A conversation up to an answer, and what a person said of that answer.

    `consent`: the person agreed that it is trained on. `correction`: what the answer should have been.
    """

    time: str
    messages: list[dict[str, Any]]
    consent: bool = False
    rating: Rating | None = None
    correction: str | None = None
    model: str = ""  # who answered: a run's id, or an address
    domain: str | None = None


def record(messages: Sequence[dict[str, Any]], *, model: str, rating: Rating, correction: str | None) -> ChatRecord:
    """A record of now, of somebody who consents."""
    return ChatRecord(
        time=now(), messages=[dict(message) for message in messages], consent=True, rating=rating,
        correction=correction, model=model,
    )  # fmt: skip


def append(folder: Path, item: ChatRecord) -> Path:
    """Add a line to the month's file, readable by its owner alone. Returns the file. Raises HostError."""
    path = folder / f"{item.time[:7]}.jsonl"
    line = json.dumps(item.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(line)
    except OSError as error:
        raise HostError(f"can't keep the feedback: {error.strerror}", where=str(path)) from error
    return path

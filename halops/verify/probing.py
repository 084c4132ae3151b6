"""Probes: the questions whose answers a machine can check, asked of a served model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from halops.chat import Answer, ChatClient
from halops.verify.stops import GREEDY

if TYPE_CHECKING:
    from halops.probes import Probe


def ask_probes(client: ChatClient, probes: Sequence[Probe], tokens: int, parallel: int = 1) -> Iterator[Answer]:
    """The answers, in the order of the probes, as they come.

    Args:
        tokens: an answer is cut there.
        parallel: how many are asked at once: the server's slots.
    """

    def one(probe: Probe) -> Answer:
        messages = [message.model_dump() for message in probe.messages]
        return client.complete(messages, max_tokens=tokens, **GREEDY)

    with ThreadPoolExecutor(parallel) as pool:
        try:
            yield from pool.map(one, probes)
        finally:
            pool.shutdown(cancel_futures=True)


def tokens_per_second(answers: Sequence[Answer]) -> float | None:
    """Generation speed over all answers, from llama-server's own clock; None if it gave none."""
    tokens = sum(answer.timings.get("predicted_n", 0) for answer in answers)
    seconds = sum(answer.timings.get("predicted_ms", 0) for answer in answers) / 1000
    return round(tokens / seconds, 1) if seconds else None

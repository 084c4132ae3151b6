"""Many questions put to a served model, greedily, as many at a time as it has slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from halops.chat import Answer, ChatClient, Message
from halops.verify.stops import GREEDY

# A prompt, and how many tokens its answer may have.
Request = tuple[Sequence[Message], int]


def ask_all(client: ChatClient, requests: Sequence[Request], parallel: int = 1) -> Iterator[Answer]:
    """The answers, in the order of the requests, as they come.

    Args:
        parallel: how many are asked at once: the server's slots. Batched arithmetic rounds otherwise than single, so
            an answer may differ where two tokens are as good as equally likely.
    """

    def one(request: Request) -> Answer:
        return client.complete(request[0], max_tokens=request[1], **GREEDY)

    pool = ThreadPoolExecutor(parallel)
    try:
        yield from pool.map(one, requests)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what still runs ends with the server


def tokens_per_second(answers: Sequence[Answer]) -> float | None:
    """Generation speed over all answers, from llama-server's own clock; None if it gave none."""
    tokens = sum(answer.timings.get("predicted_n", 0) for answer in answers)
    seconds = sum(answer.timings.get("predicted_ms", 0) for answer in answers) / 1000
    return round(tokens / seconds, 1) if seconds else None

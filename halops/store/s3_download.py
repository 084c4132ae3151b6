"""Fetching one object in ranges, several at once, written in order.

Our own: s3transfer 0.19 waits for itself for ever when an object that goes to a stream has more ranges than its window
(its first range's slot is freed only after the others were queued, and they wait for slots).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from halops.store.s3_client import TRIES
from halops.store.s3_upload import WORKERS

RANGE_BYTES = 16 << 20
WINDOW = 8  # ranges of a file that are asked for, or wait in memory for their turn
BROKEN = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


def ranges(client: Any, target: Mapping[str, str], size: int) -> Iterator[bytes]:
    """An object's bytes, in order.

    Args:
        target: Bucket and Key.
        size: of the object, in bytes. A server may send other bytes than these: compare a digest.

    Raises what botocore raises; a range whose connection breaks is asked for again first.
    """
    starts = iter(range(0, size, RANGE_BYTES))
    pool = ThreadPoolExecutor(min(WORKERS, WINDOW), thread_name_prefix="ranges")
    try:
        waiting = deque(pool.submit(_range, client, target, start, size) for start in islice(starts, WINDOW))
        while waiting:
            data = waiting.popleft().result()
            waiting.extend(pool.submit(_range, client, target, start, size) for start in islice(starts, 1))
            yield data
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _range(client: Any, target: Mapping[str, str], start: int, size: int) -> bytes:
    end = min(start + RANGE_BYTES, size) - 1

    for attempt in range(1, TRIES + 1):
        try:
            body: bytes = client.get_object(**target, Range=f"bytes={start}-{end}")["Body"].read()
            return body
        except BROKEN:  # after the answer had begun: botocore tries only what came before
            if attempt == TRIES:
                raise
    raise AssertionError("unreachable")

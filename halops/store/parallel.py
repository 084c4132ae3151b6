"""Many files at once, where that helps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

FILES_AT_ONCE = 8
LARGE_BYTES = 64 << 20  # a store moves such a file with many workers of its own: one at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    items: Iterable[Item], sizes: Sequence[int], work: Callable[[Item], Result], stop: threading.Event | None = None
) -> list[Result]:
    """`work` on each item: small ones side by side, large ones one after the other in this thread.

    The first exception stops the rest. Results come in the order of `items`.

    Args:
        stop: set when something failed, so that long work in other threads can notice.
    """
    items = list(items)
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="files") as pool:
        try:
            small = {
                index: pool.submit(work, item)
                for index, (item, size) in enumerate(zip(items, sizes, strict=True))
                if size < LARGE_BYTES
            }
            large = {index: work(item) for index, item in enumerate(items) if index not in small}
            return [small[index].result() if index in small else large[index] for index in range(len(items))]
        except BaseException:
            if stop:
                stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

"""Several GPUs of one host, each with cells of its own and its share of the processors."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

# Where what is compiled is kept: processes that are measured at once must not wait for each other's.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")

Item = TypeVar("Item")


class Share(NamedTuple):
    """One GPU by its index, as CUDA_VISIBLE_DEVICES has it, and processors by their numbers."""

    gpu: str
    processors: frozenset[int]

    def environment(self, work: Path) -> dict[str, str]:
        """Of its processes."""
        return {"CUDA_VISIBLE_DEVICES": self.gpu, **{name: str(work / f"{name.lower()}-{self.gpu}") for name in CACHES}}


def shares(gpus: Sequence[str], processors: Iterable[int]) -> list[Share]:
    """As many processors for each, neighbours together; the last ones are left out if they don't come out even."""
    numbers = sorted(processors)
    count = max(1, len(numbers) // len(gpus))
    return [Share(gpu, frozenset(numbers[at * count : (at + 1) * count] or numbers)) for at, gpu in enumerate(gpus)]


def spread(cells: Iterable[Item], found: Sequence[Share], run: Callable[[Iterable[Item], Share], None]) -> None:
    """Run every cell on whichever GPU asks for one next. Raises what a run raised, when all have ended."""
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for cell in cells:
        waiting.put(cell)
    failed: list[BaseException] = []

    def next_ones() -> Iterator[Item]:
        while not failed:
            try:
                yield waiting.get_nowait()
            except queue.Empty:
                return

    def work(share: Share) -> None:
        os.sched_setaffinity(0, share.processors)  # of this thread, and of the processes that it starts
        try:
            run(next_ones(), share)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(share,)) for share in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]

"""Launches that are the same each time, recorded as a CUDA graph: one call of the host's instead of one for each.

Beside a fast GPU the host is what short micro-batches wait for (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Recorded:
    """Calls `launch`; on CUDA the second call records it, and from then on the record is replayed.

    Args:
        launch: writes into memory that stays where it is, and makes no tensors of its own.
        reads: what it reads. Where one of them has moved, all begins anew.
    """

    def __init__(self, launch: Callable[[], None], reads: Sequence[Tensor]) -> None:
        self._launch = launch
        self._reads = tuple(reads)
        self._places: tuple[int, ...] = ()
        self._graph: Any = None

    def __call__(self) -> None:
        if not (self._reads and self._reads[0].is_cuda):
            return self._launch()
        places = tuple(item.data_ptr() for item in self._reads)
        if places != self._places:
            self._places, self._graph = places, None
            return self._launch()  # kernels are compiled and loaded here: a recording mustn't
        if self._graph is None:
            self._graph = _record(self._launch)
        self._graph.replay()
        return None


def _record(launch: Callable[[], None]) -> Any:
    """As `torch.cuda.graph` does, but without emptying the allocator's cache, of which nothing is taken here.

    Errors of other threads' calls stay theirs: NCCL's watchdog and the loader's pinning go on meanwhile.
    """
    current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph

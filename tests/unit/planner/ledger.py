"""A ledger of live bytes: what a piece of torch code holds at its peak, on any device, `meta` included."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Ledger(TorchDispatchMode):
    """Counts storages as they are made and freed: `live` and `peak` bytes, and `at_peak` by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.by_dtype: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in torch.utils._pytree.tree_leaves(result):
            if isinstance(item, torch.Tensor):
                self.add(item)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        size, dtype = storage.nbytes(), str(tensor.dtype).removeprefix("torch.")
        self.live += size
        self.by_dtype[dtype] += size
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, dict(self.by_dtype)
        weakref.finalize(storage, self._free, storage._cdata, size, dtype)

    def _free(self, key: int, size: int, dtype: str) -> None:
        self._seen.discard(key)
        self.live -= size
        self.by_dtype[dtype] -= size

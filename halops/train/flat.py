"""The adapter's matrices as one parameter of a bitsandbytes optimizer.

bitsandbytes updates one parameter after another and waits for the GPU after each. Qwen2.5-7B's adapter has 392 of
them: beside a fast GPU that was 22 ms of each step (docs/performance.md). As one parameter they take one kernel. Its
8-bit states share a scale among BLOCK values: matrices of whole blocks come out bit for bit as they would one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # values, the optimizers' own (bitsandbytes' `F.optimizer_update_8bit_blockwise`)
FEWEST = 4096  # values: bitsandbytes keeps the states of fewer in 32 bits (`min_8bit_size`)


class Flat:
    """One parameter in place of each of an optimizer's groups.

    The model's parameters stay what they were, but lie in the flat one's memory.
    """

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self._pairs = []
        for group in groups:
            parts = list(group["params"])
            group["params"] = [_joined(parts)]
            self._pairs.append((group["params"][0], parts))

    def gather(self) -> None:
        """Lay the parameters' gradients together: after whatever clips them, and best while the GPU is still at work.

        A parameter without a gradient counts as one with zeros, unless none has any. Parameters that have left the
        flat one's memory come back, with the values that they have: a model's `to` may copy them, as accelerate's does
        for several processes on CPUs, and nothing would be trained.
        """
        for flat, parts in self._pairs:
            if not _lies_in(flat, parts):
                _lay(flat, parts)
            if any(part.grad is not None for part in parts):
                found = [torch.zeros_like(part) if part.grad is None else part.grad for part in parts]
                flat.grad = torch.cat([grad.flatten() for grad in found])

    def before_step(self) -> None:
        """Gather, unless that is done."""
        if all(flat.grad is None for flat, _ in self._pairs):
            self.gather()

    def after_step(self) -> None:
        """Give the gradients' memory back."""
        for flat, _ in self._pairs:
            flat.grad = None


def flatten(optimizer: Any) -> Flat | None:
    """Make one parameter of each of an optimizer's groups, before its first step; None where that wouldn't be exact."""
    groups = [group for group in optimizer.param_groups if group["params"]]
    if not type(optimizer).__module__.startswith("bitsandbytes.") or not all(_fit(group["params"]) for group in groups):
        return None
    flat = Flat(groups)
    optimizer.register_step_pre_hook(lambda *_: flat.before_step())
    optimizer.register_step_post_hook(lambda *_: flat.after_step())
    return flat


def _fit(parameters: Sequence[Tensor]) -> bool:
    kinds = {(one.dtype, one.device) for one in parameters}
    return len(kinds) == 1 and all(one.numel() % BLOCK == 0 and one.numel() >= FEWEST for one in parameters)


def _joined(parts: Sequence[Tensor]) -> torch.nn.Parameter:
    """One parameter with the values of all, of which each is a view from now on."""
    flat = torch.nn.Parameter(parts[0].detach().new_empty(sum(part.numel() for part in parts)))
    _lay(flat, parts)
    return flat


def _lay(flat: Tensor, parts: Sequence[Tensor]) -> None:
    flat.data.copy_(torch.cat([part.detach().flatten() for part in parts]))
    for part, values in zip(parts, torch.split(flat.detach(), [part.numel() for part in parts]), strict=True):
        part.data = values.view_as(part)


def _lies_in(flat: Tensor, parts: Sequence[Tensor]) -> bool:
    at = flat.data_ptr()
    for part in parts:
        if part.data_ptr() != at:
            return False
        at += part.numel() * part.element_size()
    return True

"""A dtype census: which tensors a model holds in which dtype, and which of them nobody asked for.

Libraries upcast in passing: PEFT's k-bit helper turns embedding, head and norms into fp32, 2.2 GB on a 7B model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from halops.errors import StageError

# Rotary frequencies are fp32 by design of every family: 64 numbers, whose rounding would move far positions.
KEPT_IN_FP32 = ("inv_freq", "original_inv_freq")


@dataclass(frozen=True)
class Held:
    """One tensor: its name, dtype ("bfloat16"), elements, bytes, and whether it belongs to the adapter."""

    name: str
    dtype: str
    elements: int
    bytes: int
    adapter: bool

    @property
    def floating(self) -> bool:
        return "float" in self.dtype


def held(named: Iterable[tuple[str, Any]]) -> list[Held]:
    """Describe named tensors; one that has two names counts once."""
    seen: dict[int, Held] = {}
    for name, tensor in named:
        dtype = str(tensor.dtype).removeprefix("torch.")
        entry = Held(name, dtype, tensor.numel(), tensor.numel() * tensor.element_size(), ".lora_" in name)
        seen.setdefault(id(tensor), entry)
    return list(seen.values())


def summary(tensors: Sequence[Held]) -> dict[str, dict[str, int]]:
    """By dtype: tensors, elements, bytes."""
    total: dict[str, dict[str, int]] = defaultdict(lambda: {"tensors": 0, "elements": 0, "bytes": 0})
    for tensor in tensors:
        line = total[tensor.dtype]
        line["tensors"] += 1
        line["elements"] += tensor.elements
        line["bytes"] += tensor.bytes
    return {dtype: total[dtype] for dtype in sorted(total)}


def offenders(tensors: Sequence[Held], weights: str, adapter: str) -> list[Held]:
    """Floating-point tensors whose dtype is not the one asked for.

    Args:
        weights: dtype of the base's unquantized tensors (embedding, head, norms, biases).
        adapter: dtype of the adapter's tensors.
    """
    return [
        tensor
        for tensor in tensors
        if tensor.floating
        and tensor.dtype != (adapter if tensor.adapter else weights)
        and not tensor.name.endswith(KEPT_IN_FP32)
    ]


def check(tensors: Sequence[Held], weights: str, adapter: str) -> None:
    """Raise StageError, naming the largest, if a tensor is in a dtype that nobody asked for."""
    wrong = sorted(offenders(tensors, weights, adapter), key=lambda tensor: -tensor.bytes)
    if wrong:
        named = ", ".join(f"{tensor.name} {tensor.dtype} {tensor.bytes / 1e6:.1f} MB" for tensor in wrong[:5])
        raise StageError(
            f"{len(wrong)} tensors are not in the dtype that the profile asks for "
            f"({weights} weights, {adapter} adapter): {named}",
            remedy="a library in between has changed them: install the versions of requirements/train.txt",
        )

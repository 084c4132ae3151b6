"""A second reader of a merge: proves merged = base + scale * B @ A without the code that merged.

It reads with the safetensors library, computes in float64, casts with ml_dtypes, and takes ranks from the matrices.
An element passes only if the merge's own float32 rounding can have led to it: the exact value, less and plus the
largest error of that float32 arithmetic, is cast to the output's dtype, and the element must lie in between. That is
one unit in the last place at most, and nearly always none, so even a change smaller than a unit has to be there.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from halops.errors import IntegrityError, NotFoundError

Array = NDArray[np.float64]

OUTPUTS: Final[dict[str, Any]] = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}
UNIT: Final = 2.0**-24  # float32's largest relative rounding error
BLOCK: Final = 1 << 20  # elements compared at a time


@dataclass(frozen=True)
class Proof:
    """The outcome. An empty `failures` and an empty `unchanged` are a proof."""

    checked: int = 0  # tensors compared
    failures: list[str] = field(default_factory=list)  # a sentence for each tensor that is not what it should be
    unchanged: list[str] = field(default_factory=list)  # targets with a non-zero change that equal the cast base


@dataclass(frozen=True)
class _Change:
    a: Array  # [rank, in]
    b: Array  # [out, rank]
    scale: float


def prove_merge(base: Path, adapter: Path, merged: Path, *, sample: int | None = 64, seed: int = 0) -> Proof:
    """Compare every tensor of a merged model with what base and adapter say it must be.

    Args:
        base, adapter, merged: folders: two Hugging Face models and a PEFT LoRA.
        sample: rows compared of each matrix, the first and the last among them; None compares all.
        seed: picks the rows.

    Raises:
        NotFoundError: a folder has no weights. IntegrityError: a file can't be read as safetensors.
    """
    ours, theirs = _locate(base, "model*.safetensors"), _locate(merged, "model*.safetensors")
    changes = _AdapterReader(adapter)
    failures = [f"{name}: missing from the merged model" for name in sorted(ours.keys() - theirs.keys())]
    failures += [f"{name}: not in the base" for name in sorted(theirs.keys() - ours.keys())]
    failures += [f"{name}: the adapter changes it, the base has no such tensor" for name in changes.names - ours.keys()]
    failures += changes.problems
    unchanged, both = [], sorted(ours.keys() & theirs.keys())
    for name in both:
        check = _Check(name, changes.repeated.get(name, (ours[name], name)), theirs[name], changes.read(name))
        if problem := check.compare(sample, seed):
            failures.append(f"{name}: {problem}")
        if check.seems_unchanged and (sample is None or check.unchanged_everywhere()):
            unchanged.append(name)
    return Proof(len(both), failures, unchanged)


def _locate(folder: Path, pattern: str) -> dict[str, Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise NotFoundError(f"no {pattern}", where=str(folder))
    found: dict[str, Path] = {}
    for path in files:
        with _opened(path) as stored:
            found |= dict.fromkeys(stored.keys(), path)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as stored:
            yield stored
    except SafetensorError as error:
        raise IntegrityError(f"can't be read as safetensors: {error}", where=str(path)) from error


class _AdapterReader:
    """Finds each target's pair in a PEFT folder; the scale comes from alpha and the rank that the matrix has."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "adapter_model.safetensors"
        try:
            self._config: Mapping[str, Any] = json.loads((folder / "adapter_config.json").read_bytes())
        except FileNotFoundError as error:
            raise NotFoundError("no adapter_config.json", where=str(folder)) from error
        stored = _locate(folder, self._path.name)
        ends = (".lora_A.weight", ".lora_B.weight")
        modules = {name.removeprefix("base_model.model.").removesuffix(end): name for end in ends for name in stored
                   if name.endswith(end)}  # fmt: skip
        self.names = {f"{module}.weight" for module in modules}
        # An adapted head comes with the base's weight, which peft loads over the base's own.
        copies = {f"base_model.model.{module}.base_layer.weight": f"{module}.weight" for module in modules}
        self.repeated = {copies[name]: (self._path, name) for name in stored if name in copies}
        self.problems = [f"{name}: a tensor of the adapter that a plain LoRA doesn't have" for name in sorted(stored)
                         if not name.endswith(ends) and name not in copies]  # fmt: skip

    def read(self, name: str) -> _Change | None:
        """The change to that tensor, if the adapter has one."""
        if name not in self.names:
            return None
        module = name.removesuffix(".weight")
        with _opened(self._path) as stored:
            a, b = (stored.get_tensor(f"base_model.model.{module}.lora_{x}.weight").astype(np.float64) for x in "AB")
        alpha = self._config["lora_alpha"]
        for pattern, value in (self._config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                alpha = value
                break
        rank = a.shape[0]
        return _Change(a, b, alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank))


class _Check:
    """One tensor of the merged model against the base's and the adapter's."""

    def __init__(self, name: str, base: tuple[Path, str], merged: Path, change: _Change | None) -> None:
        self._name, self._merged, self._change = name, merged, change
        self._base, self._base_name = base
        self.seems_unchanged = False

    def compare(self, sample: int | None, seed: int) -> str | None:
        """What is wrong with the sampled rows, if anything."""
        with _opened(self._base) as base, _opened(self._merged) as merged:
            ours, theirs = base.get_slice(self._base_name), merged.get_slice(self._name)
            if (shape := list(ours.get_shape())) != list(theirs.get_shape()):
                return f"its shape is {list(theirs.get_shape())}, the base's is {shape}"
            if theirs.get_dtype() not in OUTPUTS:
                same = bool((base.get_tensor(self._base_name) == merged.get_tensor(self._name)).all())
                return None if same and not self._change else f"its dtype is {theirs.get_dtype()}"
            blocks = _row_blocks(shape, sample, seed ^ zlib.crc32(self._name.encode()))
            return self._compare_blocks(ours, theirs, blocks)

    def unchanged_everywhere(self) -> bool:
        """Whether the whole tensor equals the cast base although its change isn't zero."""
        self.compare(None, 0)
        return self.seems_unchanged

    def _compare_blocks(self, ours: Any, theirs: Any, blocks: Iterable[slice]) -> str | None:
        kind = OUTPUTS[theirs.get_dtype()]
        wide = UNIT if ours.get_dtype() == "F64" else 0.0  # the merge rounds float64 to float32 first
        wrong = total = 0
        worst = 0.0
        moved = differs = False
        for rows in blocks:
            weight, found = _read(ours, rows), _read(theirs, rows)
            delta, slack = self._delta(weight, rows)
            exact, slack = weight + delta, slack + wide * np.abs(weight)
            bad = ~((_cast(exact - slack, kind) <= found) & (found <= _cast(exact + slack, kind)))
            wrong, total = wrong + int(bad.sum()), total + bad.size
            worst = max(worst, float(np.abs(found - exact).max(initial=0, where=bad)))
            moved |= bool(delta.any())
            differs |= bool((found != _cast(weight, kind)).any())
        self.seems_unchanged = moved and not differs
        what = "base + scale * B @ A" if self._change else "the base"
        return f"{wrong:,} of {total:,} elements are not {what}, by up to {worst:.3g}" if wrong else None

    def _delta(self, weight: Array, rows: slice) -> tuple[Array, Array]:
        """scale * B @ A, and how far float32 arithmetic can lie from weight + that (Higham 2002, section 3.1)."""
        if self._change is None:
            return np.zeros_like(weight), np.zeros_like(weight)
        a, b, scale = self._change.a, self._change.b[rows], self._change.scale
        delta = (b @ a) * scale
        bound = (np.abs(b) @ np.abs(a)) * abs(scale)
        slack = UNIT * ((a.shape[0] + 3) * bound + np.abs(weight + delta))
        return delta, slack


def _read(stored: Any, rows: slice) -> Array:
    if not stored.get_shape():  # a scalar has no rows
        return np.asarray(stored[...], np.float64).reshape(1)
    return np.asarray(stored[rows]).astype(np.float64)


def _cast(values: Array, kind: Any) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(kind).astype(np.float64)


def _row_blocks(shape: list[int], sample: int | None, seed: int) -> Iterator[slice]:
    """Slices of rows: all in blocks, or `sample` single ones with the first and the last among them."""
    rows, columns = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    if sample is None or len(shape) < 2 or sample >= rows:
        step = max(1, BLOCK // max(1, columns))
        yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))
        return
    picked = np.random.default_rng(seed).choice(rows, max(0, sample - 2), replace=False)
    yield from (slice(int(row), int(row) + 1) for row in sorted({0, rows - 1, *picked.tolist()}))

"""The work of a merge in blocks of a few megabytes, and the threads that do it.

Each thread reads a block, computes, and writes it, so that some wait for the disk while others compute. A block is
a range of rows: the dot products of a row are the same in a block as in the whole matrix.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from halops.errors import ModelError
from halops.merge.cast import LARGEST, Dtype, OutOfRange, Scratch, narrow, to_float32
from halops.merge.layout import Placed, Shard
from halops.merge.tensors import ITEM_BYTES, TensorReader
from halops.merge.writer import ShardWriter

BLOCK_ELEMENTS: Final = 1 << 19
# BLAS kernels work on tiles of 4 to 16 rows, and add up in another order where rows are left over. A multiple of all
# their heights, with rows of zeros to fill the last block, keeps every row in the tiles.
TILE_ROWS: Final = 48
# The many passes over a block run on a part of it at a time, so that all threads' parts stay in the processor's caches;
# much smaller parts, and the threads would wait for each other at Python's lock.
CHUNK_ELEMENTS: Final = 1 << 18
MAX_CORES: Final = 6  # each thread has 16 MB of buffers, and the disk is the limit long before
Item = TypeVar("Item")


@dataclass(frozen=True)
class Factors:
    """One tensor's change, scale * b @ a: `a` is [rank, in], `b` [out, filled up to a multiple of TILE_ROWS; rank]."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: np.float32

    @classmethod
    def of(cls, a: NDArray[np.float32], b: NDArray[np.float32], scale: float) -> Factors:
        """From lora_A and lora_B. A power of two as the scale goes into b: that is exact, and saves a pass."""
        filled = np.zeros((padded_rows(b.shape[0]), b.shape[1]), np.float32)
        filled[: b.shape[0]] = b
        if abs(math.frexp(scale)[0]) == 0.5:
            with np.errstate(over="ignore"):
                return cls(a, filled * np.float32(scale), np.float32(1))
        return cls(a, filled, np.float32(scale))

    def norm(self) -> float:
        """The change's Frobenius norm, from two products of rank x rank: |BA|^2 is the sum of (B'B) * (AA')."""
        a, b = self.a.astype(np.float64), self.b.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return abs(float(self.scale)) * math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` of one tensor. A tensor that nothing changes is a column of single elements."""

    shard: Shard
    tensor: Placed
    start: int
    stop: int
    columns: int
    factors: Factors | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return (self.stop - self.start) * self.columns


def split_rows(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, about BLOCK_ELEMENTS each, in multiples of TILE_ROWS but for the last."""
    step = max(1, BLOCK_ELEMENTS // max(1, columns * TILE_ROWS)) * TILE_ROWS
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def padded_rows(rows: int) -> int:
    """Rows rounded up to a multiple of TILE_ROWS."""
    return -(-rows // TILE_ROWS) * TILE_ROWS


class Worker:
    """One thread's buffers, and the arithmetic: out = cast(f32(W) + (f32(B) @ f32(A)) * f32(scale))."""

    def __init__(self, reader: TensorReader, writer: ShardWriter, dtype: Dtype, room: tuple[int, int]) -> None:
        elements, padded_elements = room
        self._reader, self._writer, self._dtype = reader, writer, dtype
        self._raw = np.empty(elements * 8, np.uint8)
        self._values = np.empty(CHUNK_ELEMENTS, np.float32)
        self._delta = np.empty(padded_elements, np.float32)
        self._out = np.empty(elements, np.uint16)
        self._scratch = Scratch(CHUNK_ELEMENTS)

    def __call__(self, block: Block) -> int:
        """Read, compute and write one block. Returns the bytes written.

        Raises ModelError if the output's dtype can't hold a value.
        """
        source = block.tensor.source
        first = block.start * block.columns
        raw = self._raw[: block.elements * ITEM_BYTES[source.dtype]]
        self._reader.read_into(source, first * ITEM_BYTES[source.dtype], raw.data)
        data = raw
        if block.factors or source.dtype != block.tensor.dtype:
            data = self._compute(block, raw).view(np.uint8)
        position = block.tensor.offset + first * ITEM_BYTES[block.tensor.dtype]
        self._writer.write(block.shard, position, data.data)
        return len(data)

    def _compute(self, block: Block, raw: NDArray[np.uint8]) -> NDArray[np.uint16]:
        delta = self._delta_of(block, block.factors) if block.factors else None
        out, width = self._out[: block.elements], ITEM_BYTES[block.tensor.source.dtype]
        for start in range(0, block.elements, CHUNK_ELEMENTS):
            stop = min(start + CHUNK_ELEMENTS, block.elements)
            values = self._values[: stop - start]
            to_float32(raw[start * width : stop * width], block.tensor.source.dtype, values)
            if delta is not None:
                with np.errstate(over="ignore", invalid="ignore"):  # narrowing refuses what isn't finite
                    np.add(values, delta[start:stop], out=values)
            try:
                narrow(values, self._dtype, out[start:stop], self._scratch)
            except OutOfRange as error:
                raise _range_error(block, error.value, self._dtype) from error
        return out

    def _delta_of(self, block: Block, factors: Factors) -> NDArray[np.float32]:
        """scale * B @ A for the block's rows, flat."""
        b = factors.b[block.start : padded_rows(block.stop)]
        product = self._delta[: len(b) * block.columns]
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(b, factors.a, out=product.reshape(len(b), block.columns))
            if factors.scale != 1:
                np.multiply(product, factors.scale, out=product)
        return product[: block.elements]


def _range_error(block: Block, value: float, dtype: Dtype) -> ModelError:
    source = block.tensor.source
    changed = "merged" if block.factors else "base"
    if not np.isfinite(value):
        return ModelError(f"{source.name}: the {changed} tensor holds {value:g}", where=str(source.file),
                          remedy="train again with a lower learning rate" if block.factors else
                          "give an undamaged base model")  # fmt: skip
    return ModelError(
        f"{source.name} reaches {value:,.0f}, and {dtype} ends at {LARGEST[dtype]:,.0f}: it would become infinite",
        where=str(source.file),
        remedy="set merge.dtype=bfloat16",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def run_threads(
    items: Iterator[Item], make_worker: Callable[[], Callable[[Item], int]], on_done: Callable[[int], None]
) -> None:
    """Do all items on a few threads; the first error stops them all and is raised.

    Args:
        items: made one at a time, under a lock.
        make_worker: called once on each thread.
        on_done: called with each item's result, one call at a time.
    """
    lock, failed = threading.Lock(), threading.Event()

    def drain() -> None:
        try:
            worker = make_worker()
            while not failed.is_set():
                with lock:
                    item = next(items, None)
                if item is None:
                    return
                result = worker(item)
                with lock:
                    on_done(result)
        except BaseException:
            failed.set()
            raise

    count = min(_cores(), MAX_CORES) + 1  # one more than cores: some wait for the disk
    with ThreadPoolExecutor(count, "merge") as pool:
        try:
            futures = [pool.submit(drain) for _ in range(count)]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            failed.set()
    for future in futures:
        future.result()

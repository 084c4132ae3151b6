"""Merge a LoRA adapter into its base: out = cast(f32(W) + (f32(B) @ f32(A)) * f32(scale)), a block at a time.

This is bit for bit PEFT's merge_and_unload with the base in float32, then cast; memory does not grow with the model.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from threadpoolctl import threadpool_limits

from halops.errors import ConfigError, Interrupted
from halops.merge.adapter import Adapter, read_adapter, resolve_targets
from halops.merge.blocks import Block, Factors, Worker, padded_rows, run_threads, split_rows
from halops.merge.cast import Dtype
from halops.merge.companions import CONFIG, copy_companions, merged_config, read_base_config
from halops.merge.layout import Placed, Shard, plan_shards
from halops.merge.tensors import TensorReader, read_model
from halops.merge.writer import ShardWriter
from halops.process import peak_rss_bytes
from halops.progress import Progress
from halops.stages.context import Metrics

LEDGER: Final = "merge.json"
REPORT_SECONDS: Final = 1.0


def merge_adapter(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    dtype: Dtype = "float16",
    max_shard_bytes: int = 5 * 10**9,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Metrics:
    """Write the merged model, a Hugging Face folder of its own, with a ledger of what changed (merge.json).

    Args:
        base: a Hugging Face model folder: safetensors in F64, F32, F16 or BF16, sharded or not.
        adapter: a PEFT LoRA folder; its chat_template.jinja, if any, becomes the merged model's.
        output: an empty or new folder. config.json comes last: without it the folder is no model.
        dtype: of the merged model; all arithmetic is float32.
        max_shard_bytes: where a new shard begins.
        stop: when set, the merge ends within a fraction of a second.

    Returns:
        merged_tensors, copied_tensors, bytes_written and peak_rss_bytes.

    Raises:
        NotFoundError: a folder or a needed file isn't there.
        ModelError: what can't be merged, all reasons at once; or a value that `dtype` can't hold.
        IntegrityError: a damaged input. HostError: too little disk. Interrupted: `stop` was set.
    """
    _check_folders(base, adapter, output)
    config = read_base_config(base)
    lora = read_adapter(adapter)
    tensors = resolve_targets(lora, read_model(base), config)
    shards = plan_shards(tensors, dtype, max_shard_bytes)
    with ShardWriter(output, shards) as writer:
        copy_companions(base, adapter, output)
        norms = _merge(shards, lora, writer, dtype, progress or Progress(), stop or threading.Event())
        writer.commit()
    (output / LEDGER).write_bytes(_ledger(lora, norms, len(tensors), dtype))
    (output / CONFIG).write_bytes(merged_config(config, dtype))
    return {
        "merged_tensors": len(lora.pairs),
        "copied_tensors": len(tensors) - len(lora.pairs),
        "bytes_written": sum(shard.size for shard in shards),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _check_folders(base: Path, adapter: Path, output: Path) -> None:
    if output.resolve() in (base.resolve(), adapter.resolve()):
        raise ConfigError("the output folder is an input too", where=str(output), remedy="give a new folder")


def _merge(
    shards: tuple[Shard, ...],
    lora: Adapter,
    writer: ShardWriter,
    dtype: Dtype,
    progress: Progress,
    stop: threading.Event,
) -> dict[str, float]:
    """Write all tensors. Returns each change's norm, by tensor."""
    norms: dict[str, float] = {}
    report = _Reporter(progress, sum(tensor.size for shard in shards for tensor in shard.tensors))
    room = _room(shards, lora)
    # One BLAS thread for each of ours: OpenBLAS would let them wait for its own pool, one after the other.
    with TensorReader() as reader, threadpool_limits(1, "blas"):
        blocks = _blocks(shards, lora, reader, stop, norms)
        run_threads(blocks, lambda: Worker(reader, writer, dtype, room), report)
    return norms


def _as_rows(tensor: Placed, lora: Adapter) -> tuple[int, int]:
    if tensor.source.name in lora.pairs:
        rows, columns = tensor.source.shape
        return rows, columns
    return tensor.source.elements, 1


def _room(shards: tuple[Shard, ...], lora: Adapter) -> tuple[int, int]:
    """Elements of the largest block: as stored, and with rows of zeros to fill it."""
    shapes = {_as_rows(tensor, lora) for shard in shards for tensor in shard.tensors}
    blocks = [(stop - start, columns) for rows, columns in shapes for start, stop in split_rows(rows, columns)]
    return (
        max((rows * columns for rows, columns in blocks), default=0),
        max((padded_rows(rows) * columns for rows, columns in blocks), default=0),
    )


def _blocks(
    shards: tuple[Shard, ...], lora: Adapter, reader: TensorReader, stop: threading.Event, norms: dict[str, float]
) -> Iterator[Block]:
    """Every block in the order of the output; a pair of matrices is read when its tensor is reached."""
    for shard in shards:
        for tensor in shard.tensors:
            name, factors = tensor.source.name, None
            if pair := lora.pairs.get(name):
                factors = Factors.of(reader.float32(pair.a), reader.float32(pair.b), pair.scale)
                norms[name] = factors.norm()
            rows, columns = _as_rows(tensor, lora)
            for start, end in split_rows(rows, columns):
                if stop.is_set():
                    raise Interrupted("stopped while merging", remedy="the same command starts the merge again")
                yield Block(shard, tensor, start, end, columns, factors)


class _Reporter:
    """Counts bytes and reports about once a second."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done, self._last = progress, total, 0, 0.0

    def __call__(self, size: int) -> None:
        self._done += size
        if time.monotonic() - self._last >= REPORT_SECONDS or self._done == self._total:
            self._last = time.monotonic()
            self._progress("merging", done=self._done, total=self._total, unit="bytes")


def _ledger(adapter: Adapter, norms: Mapping[str, float], tensors: int, dtype: Dtype) -> bytes:
    """merge.json: what changed, and by how much; norms are Frobenius norms of scale * B @ A."""
    entries = [
        {"name": name, "shape": [pair.b.shape[0], pair.a.shape[1]], "rank": pair.rank, "scale": pair.scale,
         "norm_delta": norms[name]}
        for name, pair in sorted(adapter.pairs.items())
    ]  # fmt: skip
    ledger = {
        "kind": "halops/merge/v1",
        "dtype": dtype,
        "arithmetic": "float32",
        "adapter": adapter.config.model_dump(mode="json"),
        "copied_tensors": tensors - len(entries),
        "tensors": entries,
    }
    return json.dumps(ledger, indent=1).encode() + b"\n"

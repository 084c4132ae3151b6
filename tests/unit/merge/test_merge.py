"""The merge end to end: what it writes, what it refuses, and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from halops.errors import ConfigError, HostError, Interrupted, ModelError
from halops.merge import blocks, writer
from halops.merge.merge import merge_adapter
from halops.merge.tensors import TensorReader, read_model
from halops.process import peak_rss_bytes
from halops.progress import Progress

if TYPE_CHECKING:
    from .conftest import Pair

UP = "model.layers.0.mlp.up_proj.weight"
CHILD = """
import sys
from pathlib import Path
from halops.merge.merge import merge_adapter
metrics = merge_adapter(*map(Path, sys.argv[1:]))
assert not {"torch", "transformers"} & sys.modules.keys(), "the merge image has no torch"
print(metrics["peak_rss_bytes"])
"""


def merged(pair: Pair, **options: Any) -> dict[str, np.ndarray]:
    """Merge, and read the result as float32."""
    merge_adapter(pair.base, pair.adapter, pair.output, **options)
    with TensorReader() as reader:
        return {name: reader.float32(tensor) for name, tensor in read_model(pair.output).items()}


def expected(pair: Pair, name: str, scale: float = 2.0) -> np.ndarray:
    """base + scale * B @ A in float64; nothing is cast."""
    weight = (pair.tensors[name][1].astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    module = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{module}.lora_A.weight" in pair.lora:
        a, b = (pair.lora[f"{module}.lora_{half}.weight"][1].astype(np.float64) for half in "AB")
        weight = weight + scale * (b @ a)
    return weight


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_adds_the_change_and_casts_the_rest(dtype: Any, digits: int, pair: Pair) -> None:
    found = merged(pair, dtype=dtype)
    assert found.keys() == pair.tensors.keys()
    for name, values in found.items():
        exact = expected(pair, name)
        assert (np.abs(values - exact) <= 2.0**-digits * np.abs(exact) * 1.01 + 2.0**-25).all(), name
    assert np.abs(found[UP] - expected(pair, UP, scale=0)).max() > 0.01


@pytest.mark.parametrize("block", [1, 5000])
def test_blocks_change_nothing_but_a_rounding(block: int, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = merged(pair)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    pair.output = pair.output.with_name("again")
    again = merged(pair)
    assert all(np.abs(whole[name] - again[name]).max() <= np.spacing(np.float16(0.1)) for name in whole)


def test_writes_the_ledger_and_counts(pair: Pair) -> None:
    metrics = merge_adapter(pair.base, pair.adapter, pair.output)
    files = sum(path.stat().st_size for path in pair.output.glob("*.safetensors"))
    assert (metrics["merged_tensors"], metrics["copied_tensors"], metrics["bytes_written"]) == (2, 2, files)
    ledger = json.loads((pair.output / "merge.json").read_text())
    entry = next(entry for entry in ledger["tensors"] if entry["name"] == UP)
    delta = expected(pair, UP) - expected(pair, UP, scale=0)
    assert (entry["shape"], entry["rank"], entry["scale"]) == ([130, 64], 4, 2.0)
    assert entry["norm_delta"] == pytest.approx(np.linalg.norm(delta), rel=1e-6)


def test_same_dtype_is_copied_bit_for_bit(pair: Pair) -> None:
    nan = np.array([0x7FC0, 0x8000, 0x0001], np.uint16)
    pair.tensors["odd"] = ("BF16", nan)
    merge_adapter(pair.write().base, pair.adapter, pair.output, dtype="bfloat16")
    tensor = read_model(pair.output)["odd"]
    assert tensor.file.read_bytes()[tensor.offset :][: tensor.size] == nan.tobytes()


def test_other_dtypes(pair: Pair) -> None:
    """float64 is rounded, integers and booleans stay, scalars and empty tensors have their place."""
    pair.tensors |= {
        "wide": ("F64", np.array([1 / 3, -2.0])), "ids": ("I64", np.arange(9)),
        "mask": ("BOOL", np.array([True, False])), "scalar": ("F32", np.array(0.1, np.float32)),
        "empty": ("BF16", np.zeros((0, 4), np.uint16)),
    }  # fmt: skip
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    found = read_model(pair.output)
    new = {"wide": ("F16", (2,)), "ids": ("I64", (9,)), "mask": ("BOOL", (2,)), "scalar": ("F16", ()),
           "empty": ("F16", (0, 4))}  # fmt: skip
    assert {name: (found[name].dtype, found[name].shape) for name in new} == new
    with TensorReader() as reader:
        assert reader.float32(found["wide"]).tolist() == [np.float16(1 / 3), -2.0]
        assert reader.float32(found["scalar"]) == np.float16(0.1)


@pytest.mark.parametrize("where", ["base", "merged"])
def test_refuses_silent_infinities_by_name(where: str, pair: Pair) -> None:
    if where == "base":
        pair.tensors["model.norm.weight"] = ("BF16", np.full(64, 0x47C3, np.uint16))  # 99,840
    else:
        a = f"base_model.model.{UP.removesuffix('.weight')}.lora_A.weight"
        pair.lora[a] = ("F32", pair.lora[a][1] * np.float32(1e7))
    with pytest.raises(ModelError) as caught:
        merge_adapter(pair.write().base, pair.adapter, pair.output)
    name = "model.norm.weight reaches 99,840" if where == "base" else f"{UP} reaches"
    assert caught.value.what.startswith(name)
    assert "float16 ends at 65,504" in caught.value.what
    assert caught.value.remedy == "set merge.dtype=bfloat16"
    assert [path.name for path in pair.output.iterdir()] == []
    merge_adapter(pair.base, pair.adapter, pair.output, dtype="bfloat16")


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_refuses_a_change_that_is_not_finite(value: float, pair: Pair) -> None:
    b = f"base_model.model.{UP.removesuffix('.weight')}.lora_B.weight"
    pair.lora[b][1][7, 2] = value
    pair.lora_config["lora_alpha"] = 4000  # so that a finite change overflows
    with pytest.raises(ModelError, match=f"{UP}: the merged tensor holds"):
        merge_adapter(pair.write().base, pair.adapter, pair.output, dtype="bfloat16")


def test_progress_ends_at_the_total(pair: Pair) -> None:
    events: list[dict[str, Any]] = []
    merge_adapter(pair.base, pair.adapter, pair.output, progress=Progress(listener=events.append))
    assert events[-1]["done"] == events[-1]["total"] == sum(array.nbytes for _, array in pair.tensors.values())


def test_stops_when_told_and_leaves_nothing(pair: Pair) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted) as caught:
        merge_adapter(pair.base, pair.adapter, pair.output, stop=stop)
    assert caught.value.exit_code == 75
    assert list(pair.output.glob("*.safetensors*")) == []
    assert not (pair.output / "config.json").exists()


def test_a_failing_disk_stops_all_threads(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = threading.active_count()
    monkeypatch.setattr(blocks.Worker, "__call__", full)
    with pytest.raises(OSError, match="No space left"):
        merge_adapter(pair.base, pair.adapter, pair.output)
    assert threading.active_count() == before
    assert list(pair.output.glob("*.safetensors*")) == []


def test_too_little_disk_is_said_before_the_work(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SPARE_BYTES", 10**18)
    with pytest.raises(HostError, match=r"needs 1000000000\.0 GB of disk"):
        merge_adapter(pair.base, pair.adapter, pair.output)


def test_an_output_that_is_taken(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    before = (pair.output / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a model already"):
        merge_adapter(pair.base, pair.adapter, pair.output, dtype="bfloat16", max_shard_bytes=1)
    assert (pair.output / "model.safetensors").read_bytes() == before
    for folder in (pair.base, pair.adapter):
        with pytest.raises(ConfigError, match="is an input too"):
            merge_adapter(pair.base, pair.adapter, folder)


def big(pair: Pair, rows: int) -> Pair:
    """A target of that many rows of 32 KB."""
    module = UP.removesuffix(".weight")
    pair.tensors = {UP: ("BF16", np.full((rows, 16384), 0x3C23, np.uint16))}
    pair.lora = {f"base_model.model.{module}.lora_A.weight": ("F32", np.full((4, 16384), 0.01, np.float32)),
                 f"base_model.model.{module}.lora_B.weight": ("F32", np.full((rows, 4), 0.01, np.float32))}  # fmt: skip
    return pair.write()


def test_memory_does_not_grow_with_the_tensor(pair: Pair) -> None:
    """One tensor of 268 MB, 537 MB as float32, where the limit would be 1.3 GB."""
    big(pair, 8192)
    argv = [sys.executable, "-c", CHILD, str(pair.base), str(pair.adapter), str(pair.output)]
    peak = int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    assert 20e6 < peak < 200e6


def test_killed_at_any_moment_it_leaves_nothing_that_counts(pair: Pair) -> None:
    big(pair, 4096)
    argv = [sys.executable, "-c", CHILD, str(pair.base), str(pair.adapter), str(pair.output)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    partial = pair.output / "model.safetensors.partial"
    while not partial.exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert partial.exists()
    assert not {"model.safetensors", "config.json"} & {path.name for path in pair.output.iterdir()}
    merge_adapter(pair.base, pair.adapter, pair.output)
    assert sorted(path.name for path in pair.output.iterdir()) == ["config.json", "merge.json", "model.safetensors"]


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from halops.merge.merge import merge_adapter
from halops.progress import Progress
base, adapter, output = map(Path, sys.argv[1:])
def ctrl_c(event):
    print([path.name for path in output.iterdir()], flush=True)
    os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without
merge_adapter(base, adapter, output, progress=Progress(listener=ctrl_c))
"""


def test_ctrl_c_removes_what_was_written(pair: Pair) -> None:
    big(pair, 512)
    argv = [sys.executable, "-c", INTERRUPTED, str(pair.base), str(pair.adapter), str(pair.output)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert "model.safetensors.partial" in done.stdout
    assert list(pair.output.iterdir()) == []


def test_peak_memory_is_this_process_own() -> None:
    own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_rss_bytes() >= own * 0.9

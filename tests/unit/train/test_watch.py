"""Divergence, spikes, TensorBoard, foreign errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from halops.errors import GpuMemoryError, HostError, StageError
from halops.planner.settings import MemorySettings
from halops.progress import Progress
from halops.train.callbacks import Watch
from halops.train.faults import translated
from halops.train.history import History
from tests.unit.train.conftest import Attempt, make_profile

Make = Callable[..., Attempt]


def test_a_diverging_training_stops_and_keeps_its_last_checkpoint(attempt: Make, tmp_path: Path) -> None:
    one = attempt(make_profile(training={"learning_rate": 1e30, "save_steps": 1, "warmup_ratio": 0.4}), kept="shared")
    with pytest.raises(StageError, match="training diverged: at step") as caught:
        one.run()
    assert "training.learning_rate" in str(caught.value)
    from safetensors.torch import load_file

    kept = sorted(int(path.name) for path in (tmp_path / "shared").iterdir())
    assert kept
    assert len(one.history()) == kept[-1]  # the step that diverged is neither saved nor logged
    weights = load_file(tmp_path / "shared" / str(kept[0]) / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def watch(tmp_path: Path, events: list, state: dict | None = None) -> Watch:
    return Watch(History(tmp_path), Progress(None, events.append), threading.Event(), 1, state)


def test_a_spike_warns_once_there_is_a_median(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list = []
    one = watch(tmp_path, events)
    with caplog.at_level(logging.WARNING):
        for step, norm in enumerate([90.0, 1.0, 1.1, 0.9, 1.0, 4.9, 5.6, 1.0]):
            one._check_spike(step, norm)
    assert [event["metrics"] for event in events] == [{"step": 6, "grad_norm": 5.6}]
    assert events[0]["message"] == "warning: gradient norm 5.6 at step 6, 5 times its running median"
    assert "running median" in caplog.text


def test_the_median_outlives_a_restart(tmp_path: Path) -> None:
    events: list = []
    one = watch(tmp_path, events)
    for step in range(6):
        one._check_spike(step, 1.0)
    other = watch(tmp_path, events, one.export())
    other._check_spike(7, 6.0)
    assert len(events) == 1


def test_tensorboard_reads_the_curve(attempt: Make) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    one = attempt()
    metrics = one.run()
    events = EventAccumulator(str(one.output / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", "epoch"):
        assert f"train/{name}" in tags
    points = [(event.step, pytest.approx(event.value, rel=1e-5)) for event in events.Scalars("train/loss")]
    assert [(line["step"], line["loss"]) for line in one.history()] == points
    assert events.Scalars("heldout_loss/tuned")[0].value == pytest.approx(metrics["heldout_loss"])


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", GpuMemoryError, 44),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", GpuMemoryError, 44),
        ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried", HostError, 5),
        ("[enforce fail at inline_container.cc:664] PytorchStreamWriter failed writing file data/3", HostError, 5),
    ],
)
def test_foreign_errors_get_their_exit_code(text: str, error: type[Exception], code: int) -> None:
    def fails() -> None:
        with translated() as tried:
            tried.settings = MemorySettings(token_budget=2048, checkpointed_layers=28, embedding_on_host=True)
            raise RuntimeError(text)

    with pytest.raises(error) as caught:
        fails()
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    if code == 44:
        assert "2,048 tokens at a time, 28 layers checkpointed, embedding in host memory" in str(caught.value)


def test_torch_s_own_out_of_memory_is_known_by_its_type() -> None:
    with pytest.raises(GpuMemoryError), translated():
        raise torch.OutOfMemoryError("in other words")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="a bug"), translated():
        raise RuntimeError("a bug")


def test_a_real_failed_allocation_is_host_memory() -> None:
    with pytest.raises(HostError, match="out of host memory"), translated():
        torch.empty(2**60, dtype=torch.uint8)

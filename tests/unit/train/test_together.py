"""Two processes on gloo against one: the same losses, the same adapter; stopped, killed and resumed.

Each start of two processes takes some seconds, for imports alone.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halops.errors import ConfigError, GpuMemoryError, Interrupted, TransientError
from halops.train import arguments, launch
from tests.unit.train.conftest import Attempt, make_profile, write_rows
from tests.unit.train.flat_worker import OPTIMIZER

pytestmark = pytest.mark.slow
Make = Callable[..., Attempt]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALOPS_NPROC", "2")


def adapter_of(one: Attempt) -> Any:
    from safetensors.torch import load_file

    return load_file(one.output / "adapter" / "adapter_model.safetensors")


@pytest.mark.measured
@pytest.mark.parametrize(
    ("changes", "nf4"),
    [
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "token_budget": 30}, True),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": True}, False),
    ],
)  # fmt: skip
def test_two_processes_train_as_one_does(
    attempt: Make, inputs: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], nf4: bool
) -> None:
    """14 rows by 4: the last step of an epoch is a small one. By 2 at a time it has nothing for the second process."""
    write_rows(inputs / "data" / "heldout.jsonl", 150, seed=1)  # more than one batch
    profile = make_profile(
        lora={"lora_dropout": 0}, training=changes, quantization={"load_in_4bit": nf4}
    )  # masks of dropout would differ
    alone = attempt(profile)
    expected = alone.run()
    monkeypatch.setenv("HALOPS_NPROC", "2")
    both = attempt(profile)
    metrics = both.run()
    assert set(metrics) == set(expected)
    for one, other in zip(alone.curve(), both.curve(), strict=True):
        assert one == pytest.approx(other, rel=2e-5)
    for name in ("heldout_loss_base", "heldout_loss", "train_loss"):
        assert metrics[name] == pytest.approx(expected[name], rel=2e-5)
    mine, theirs = adapter_of(both), adapter_of(alone)
    assert mine.keys() == theirs.keys()
    largest = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    assert largest < 1e-4  # of steps of 5e-3
    summary = json.loads((both.output / "summary.json").read_text())
    assert summary["processes"] == 2
    assert "2 processes share each step of 4 rows" in both.messages()
    assert sorted(path.name for path in both.output.iterdir()) == sorted(path.name for path in alone.output.iterdir())
    assert [event["metrics"]["step"] for event in both.events if event["message"] == "training"] == list(range(1, 9))


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_with_the_adapter_in_one_piece_too(attempt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs: fused layers, and an optimizer of bitsandbytes' that takes all matrices as one parameter."""
    monkeypatch.setattr(arguments, "CPU_OPTIMIZERS", frozenset({OPTIMIZER}))
    targets = ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    profile = make_profile(
        lora={"lora_dropout": 0, "r": 128, "lora_alpha": 128, "target_modules": targets},  # whole blocks of values
        training={"optim": OPTIMIZER, "fused_layers": True},
    )
    alone = attempt(profile)
    alone.run()
    monkeypatch.setenv("HALOPS_NPROC", "2")
    command = launch._command
    worker = {"halops.train.worker": "tests.unit.train.flat_worker"}
    monkeypatch.setattr(launch, "_command", lambda *given: [worker.get(word, word) for word in command(*given)])
    both = attempt(profile)
    both.run()
    assert json.loads((both.output / "summary.json").read_text())["fused_layers"]
    for one, other in zip(alone.curve(), both.curve(), strict=True):
        assert one == pytest.approx(other, rel=1e-3)  # states have 8 bits


def test_stopped_and_resumed_it_is_bit_for_bit_the_same(attempt: Make, two: None) -> None:
    """With dropout, whose masks each process draws for itself."""
    profile = make_profile(training={"max_steps": 100, "save_steps": 100})
    whole = attempt(profile)
    whole.run()
    first = attempt(profile, kept="shared")
    first.stop_at(2)
    with pytest.raises(Interrupted, match="after a checkpoint") as caught:
        first.run()
    assert caught.value.exit_code == 75
    second = attempt(profile, kept="shared")
    assert 2 <= second.run()["resumed_from_step"] < 90
    assert second.curve() == whole.curve()
    assert second.adapter() == whole.adapter()


def test_a_killed_process_stops_the_others_and_the_next_attempt_goes_on(
    attempt: Make, two: None, tmp_path: Path
) -> None:
    profile = make_profile(training={"max_steps": 60, "save_steps": 2})
    first = attempt(profile, kept="shared")
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "shared").glob("[0-9]*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.extend(workers(first, rank=1))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TransientError, match=r"without a word|is gone"):
        first.run()
    killer.join()
    assert not list(workers(first))
    second = attempt(profile, kept="shared")
    metrics = second.run()
    assert metrics["resumed_from_step"] >= 2
    assert metrics["step"] == 60


def workers(one: Attempt, rank: int | None = None) -> Iterator[int]:
    """Pids of an attempt's processes, from the process table."""
    job = str(one.context.scratch / "job.json").encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        worker = job in words and b"halops.train.worker" in words and b"halops.train.torchrun" not in words
        if worker and (rank is None or f"RANK={rank}".encode() in environment):
            yield int(entry.name)


def test_out_of_memory_in_a_process_goes_one_rung_down(
    attempt: Make, two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = make_profile(training={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1})
    monkeypatch.setenv("HALOPS_TEST_FAULT", "cuda_oom:0")
    with pytest.raises(GpuMemoryError, match="out of GPU memory") as caught:
        attempt(profile).run()
    assert "1,024 tokens at a time, 0 layers checkpointed" in str(caught.value)
    lower = attempt(profile, rung=1)
    assert lower.run()["oom_rung"] == 1
    assert json.loads((lower.output / "summary.json").read_text())["memory"]["token_budget"] == 512


def test_an_error_of_a_process_keeps_its_words_and_its_code(attempt: Make, two: None) -> None:
    with pytest.raises(ConfigError) as caught:
        attempt(make_profile(lora={"target_modules": ["nothing_of_the_kind"]})).run()
    assert "nothing_of_the_kind is not a linear layer" in str(caught.value)


def test_a_step_that_cannot_be_shared_is_refused_before_anything_starts(
    attempt: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALOPS_NPROC", "3")
    with pytest.raises(ConfigError, match="4 rows can't be shared evenly by 3 processes"):
        attempt().run()

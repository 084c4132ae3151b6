"""Memory: within a few percent of what was measured on an H100, and moving the right way."""

from __future__ import annotations

import pytest

from halops.memory import (
    OPTIMIZERS,
    bits_per_weight,
    kv_bytes_per_token,
    optimizer_bytes,
    serving_memory,
    training_memory,
)
from halops.profile import load_profile
from halops.sections import Dimensions, Quantization, Serving
from halops.units import GIB, MIB

QWEN = Dimensions()


def gib(profile: str, *overrides: str) -> float:
    return training_memory(load_profile(profile, overrides), QWEN).allocated / GIB


def test_measured_peaks() -> None:
    assert gib("rtx8") == pytest.approx(5.99, rel=0.02)
    assert gib("a100") == pytest.approx(12.0, rel=0.02)


def test_measured_peaks_that_nothing_was_fitted_to() -> None:
    bf16 = "quantization.load_in_4bit=false"
    shape = "training.max_seq_length=4096"
    no_checkpointing = "training.gradient_checkpointing=false"
    two, four = (f"training.per_device_train_batch_size={size}" for size in (2, 4))
    assert gib("rtx8", bf16, shape, two, no_checkpointing) == pytest.approx(63.3, rel=0.03)
    assert gib("rtx8", bf16, shape, four) == pytest.approx(22.1, rel=0.07)


def test_one_long_row_does_not_fit_where_it_did_not() -> None:
    """TRL ran out of 7.5 GiB with one row of 4096."""
    long = training_memory(load_profile("rtx8", ["training.max_seq_length=4096"]), QWEN)
    assert long.needed - long.overhead > 7.5 * GIB
    assert training_memory(load_profile("rtx8"), QWEN).needed < 7.2 * GIB


def test_the_resident_floor() -> None:
    """5.55 GB: 6.525 B linears at 4.127 bits, embedding and head in bf16."""
    memory = training_memory(load_profile("rtx8"), QWEN)
    assert memory.base / 1e9 == pytest.approx(5.55, abs=0.01)
    without_table = memory.base + memory.adapter - 2 * 152064 * 3584
    assert without_table / GIB == pytest.approx(4.24, abs=0.02)


def test_bits_per_weight() -> None:
    assert bits_per_weight(Quantization()) == pytest.approx(4.127, abs=0.0005)
    assert bits_per_weight(Quantization(bnb_4bit_use_double_quant=False)) == 4.5
    assert bits_per_weight(Quantization(load_in_4bit=False)) == 16


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("training.max_seq_length=512", "training.max_seq_length=1024"),
        ("training.per_device_train_batch_size=1", "training.per_device_train_batch_size=2"),
        ("lora.r=8", "lora.r=64"),
        ("training.gradient_checkpointing=true", "training.gradient_checkpointing=false"),
        ("quantization.load_in_4bit=true", "quantization.load_in_4bit=false"),
        ("quantization.bnb_4bit_use_double_quant=true", "quantization.bnb_4bit_use_double_quant=false"),
        ("training.optim=paged_adamw_8bit", "training.optim=adamw_8bit"),
        ("training.optim=adamw_8bit", "training.optim=adamw_torch"),
    ],
)
def test_more_costs_more(less: str, more: str) -> None:
    assert gib("rtx8", less) < gib("rtx8", more)


def test_accumulation_costs_nothing() -> None:
    assert gib("rtx8", "training.gradient_accumulation_steps=64") == gib("rtx8")


def test_known_rows_shorten_the_bound() -> None:
    profile = load_profile("rtx8")
    assert training_memory(profile, QWEN, 300).allocated < training_memory(profile, QWEN).allocated
    assert training_memory(profile, QWEN, 99_999) == training_memory(profile, QWEN)


def test_optimizer_states() -> None:
    assert optimizer_bytes("adamw_torch", 1000, 4) == (8000, False)
    assert optimizer_bytes("adamw_torch", 1000, 2) == (4000, False)
    assert optimizer_bytes("paged_adamw_8bit", 1000, 2) == (2030, True)
    assert optimizer_bytes("something_new", 1000, 2) == (8000, False)
    assert all(optimizer_bytes(name, 1000, 2)[1] == name.startswith("paged") for name in OPTIMIZERS)


def test_every_optimizer_that_trains_is_known() -> None:
    from halops.train.arguments import CLASSIC_OPTIMIZERS
    from halops.train.arguments import OPTIMIZERS as TRAINED

    assert {*TRAINED, *CLASSIC_OPTIMIZERS} <= set(OPTIMIZERS)


def test_a_cpu_trains_in_fp32_whatever_is_asked() -> None:
    half = load_profile("local", ["training.bf16=true"])
    assert training_memory(half, QWEN) == training_memory(load_profile("local"), QWEN)


def test_fp16_keeps_the_adapter_in_fp32() -> None:
    bf16 = training_memory(load_profile("rtx8"), QWEN)
    fp16 = training_memory(load_profile("rtx8", ["training.bf16=false", "training.fp16=true"]), QWEN)
    assert fp16.adapter == 2 * bf16.adapter
    assert fp16.base == bf16.base


def test_serving_a_7b_on_a_gpu() -> None:
    """Measured on an H100: 5,149 MiB at context 4096."""
    memory = serving_memory(QWEN, Serving(), on_gpu=True)
    assert memory.needed / MIB == pytest.approx(5149, rel=0.01)
    assert memory.kv_cache == 4096 * 57_344
    assert kv_bytes_per_token(QWEN) == 57_344


def test_serving_grows_with_context_slots_and_file() -> None:
    base = serving_memory(QWEN, Serving(), on_gpu=True).needed
    for larger in (Serving(ctx_size=8192), Serving(parallel=4), Serving(file="q8_0")):
        assert serving_memory(QWEN, larger, on_gpu=True).needed > base


def test_without_gpu_layers_it_all_stays_on_the_host() -> None:
    memory = serving_memory(QWEN, Serving(n_gpu_layers=0), on_gpu=True)
    assert not memory.on_gpu
    assert memory == serving_memory(QWEN, Serving(n_gpu_layers=0), on_gpu=False)

"""What each stage needs: golden tables of the shipped profiles, and the rules behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halops.estimate import StageEstimate, converted_bytes, estimate_run, kept_bytes, optimizer_steps
from halops.names import STAGES
from halops.prices import hourly_price
from halops.profile import load_profile, shipped_profiles
from halops.sections import Dimensions
from halops.speed import device_for, flops_per_token, tokens_per_second
from halops.units import human_bytes, human_gib, human_seconds

QWEN = Dimensions()


def by_stage(profile: str, *overrides: str, rows: int | None = 1000, **more: object) -> dict[str, StageEstimate]:
    loaded = load_profile(profile, overrides)
    assert loaded.model.dimensions
    return {item.stage: item for item in estimate_run(loaded, loaded.model.dimensions, rows, **more)}  # type: ignore[arg-type]


def table(estimates: list[StageEstimate]) -> str:
    lines = []
    for item in estimates:
        time = human_seconds(item.seconds) if item.seconds is not None else "-"
        cost = f"{item.cost:.3f}" if item.cost is not None else "-"
        sizes = f"{human_gib(item.vram_bytes):>9} {human_bytes(item.ram_bytes):>8} {human_bytes(item.disk_bytes):>8}"
        lines.append(f"{item.stage:8} {sizes} {time:>13} {cost:>7}  {item.note}".rstrip())
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", shipped_profiles())
def test_golden_tables(name: str, golden: Callable[[str, str], None]) -> None:
    profile = load_profile(name)
    assert profile.model.dimensions
    rows, tokens = (420, 42_000) if name == "local" else (2000, None)
    estimates = estimate_run(profile, profile.model.dimensions, rows, tokens, {"8gb": 0.2, "a100": 1.9, "cpu": 0.05})
    golden(f"estimate-{name}.txt", table(estimates))


def test_every_stage_in_order_then_serving() -> None:
    assert list(by_stage("rtx8")) == [*STAGES, "serving"]


def test_gpu_stages_alone_need_vram() -> None:
    stages = by_stage("rtx8")
    assert [name for name, item in stages.items() if item.vram_bytes] == ["train", "serving"]
    assert not any(item.vram_bytes for item in by_stage("local").values())
    assert by_stage("rtx8", "verify.device=gpu")["verify"].vram_bytes


def test_a_7bs_conversion_needs_more_than_30_gb() -> None:
    assert 30e9 < by_stage("rtx8")["convert"].disk_bytes < 45e9


def test_merge_stays_within_its_promise() -> None:
    """1.5 x the largest tensor in fp32 + 500 MB."""
    assert by_stage("rtx8")["merge"].ram_bytes == 1.5 * 4 * 152064 * 3584 + 500e6


def test_activations_in_host_memory_are_asked_for() -> None:
    """Rows of up to 1,024 with every layer checkpointed: 27 inputs of 7.3 MB and adapters' products; the last layer's
    stay."""
    sets = ["training.token_budget=1024", "training.checkpointed_layers=28"]
    here, away, kept = (
        by_stage("rtx8", *sets, f"training.offload_activations={there}", f"training.keep_attention={whole}")
        ["train"].ram_bytes
        for there, whole in ((False, False), (True, False), (True, True))
    )  # fmt: skip
    assert away - here == 27 * 1024 * 2 * (3584 + 112)
    assert kept - away == 27 * 1024 * (2 * (4608 + 3584 + 3584) + 4 * 28)


EIGHT_ROWS = ("training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1")


def test_the_demo_trains_for_minutes() -> None:
    """Measured: 40 steps of 8 short rows take about 2.5 minutes on two cores."""
    seconds = by_stage("local", "training.max_steps=40", *EIGHT_ROWS, rows=420, tokens=420 * 90)["train"].seconds
    assert seconds == pytest.approx(150, rel=0.3)


def test_more_cores_are_faster_and_need_the_same() -> None:
    two, eight = by_stage("local", cores=2), by_stage("local", cores=8)
    for stage in ("train", "convert"):
        assert (eight[stage].seconds or 0) < (two[stage].seconds or 0)
        assert eight[stage].ram_bytes == two[stage].ram_bytes


@pytest.mark.parametrize("stage", ["data", "train"])
def test_more_rows_take_longer(stage: str) -> None:
    times = [by_stage("rtx8", rows=rows)[stage].seconds or 0 for rows in (100, 1000, 10_000)]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_speed_on_an_h100_is_what_was_measured() -> None:
    assert device_for(80, "NVIDIA H100 80GB HBM3").tflops == 400
    assert flops_per_token(QWEN, True) / 1e9 == pytest.approx(42.4, abs=0.05)
    assert flops_per_token(QWEN, False) / 1e9 == pytest.approx(28.3, abs=0.05)
    profile = load_profile("a100", ["cluster.gpu.memory_gib=81"])
    assert tokens_per_second(profile, QWEN, 4096, 2) == pytest.approx(9400, rel=0.02)
    one = load_profile("rtx8", ["cluster.gpu.memory_gib=81"])
    assert tokens_per_second(one, QWEN, 1024, 2) == pytest.approx(2070, rel=0.12)


def test_devices_by_memory() -> None:
    assert [device_for(size).name for size in (8, 12, 24, 40, 80, 141)] == [
        "8 GB card", "16 GB card", "24 GB card", "A100", "A100", "A100",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prices", "price"),
    [
        ({}, None),
        ({"rtx8": 0.3}, 0.3),
        ({"8gb": 0.2, "40gb": 1.4}, 0.2),
        ({"24 GiB": 0.5, "40gb": 1.4}, 0.5),
        ({"4gb": 0.1}, None),
        ({"cpu": 0.1}, None),
    ],
)
def test_hourly_price(prices: dict[str, float], price: float | None) -> None:
    assert hourly_price(load_profile("rtx8"), prices) == price


def test_the_profiles_own_price_wins_and_cpu_profiles_pay_for_cpus() -> None:
    assert hourly_price(load_profile("rtx8", ["cluster.price_per_hour=9"]), {"rtx8": 0.3}) == 9
    assert hourly_price(load_profile("local"), {"cpu": 0.1, "8gb": 0.2}) == 0.1


def test_cost_is_hours_times_price() -> None:
    train = by_stage("rtx8", prices={"rtx8": 0.5})["train"]
    assert train.seconds
    assert train.cost == pytest.approx(0.5 * train.seconds / 3600, abs=0.0001)
    assert by_stage("rtx8")["train"].cost is None
    assert by_stage("rtx8", prices={"rtx8": 0.5})["merge"].cost is None
    assert by_stage("rtx8", prices={"rtx8": 0.5})["serving"].note.endswith("0.50 an hour")


def test_steps() -> None:
    assert optimizer_steps(load_profile("rtx8"), 1000) == 339  # ceil(900 / 8) x 3
    assert optimizer_steps(load_profile("local"), 1000) == 46
    assert optimizer_steps(load_profile("rtx8"), 1) == 3


def test_assumptions_are_said() -> None:
    assert "assuming 1,000 rows, 390 tokens each" in by_stage("rtx8", rows=None)["train"].note
    assert "assuming 390 tokens each" in by_stage("rtx8")["train"].note
    assert "assuming" not in by_stage("rtx8", tokens=400_000)["train"].note
    expected = by_stage("rtx8", "data.expected_examples=80", rows=None)["train"]
    assert expected.note.startswith("27 steps")  # ceil(72 / 8) x 3


def test_what_is_kept() -> None:
    profile = load_profile("rtx8")
    assert kept_bytes(profile, QWEN) > converted_bytes(profile, QWEN) + 30e9
    smaller = load_profile("rtx8", ["convert.types=[q4_k_m]", "convert.adapter=false"])
    assert converted_bytes(smaller, QWEN) < 4.7e9

"""What is chosen for cards of several sizes, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from halops.errors import ConfigError
from halops.planner.choose import (
    HEADROOM,
    HOST_BYTES_PER_SECOND,
    Workload,
    available_on,
    budgets,
    choose,
    flops,
    seconds,
)
from halops.planner.peak import kept_bytes_per_token, peak
from halops.planner.settings import MemorySettings
from halops.profile import load_profile
from halops.sections import Dimensions
from halops.speed import device_for
from halops.units import GIB

QWEN = Dimensions()
H100 = "NVIDIA H100 80GB HBM3"


def rows(count: int, longest: int, mean: float | None = None) -> Workload:
    return Workload(rows=count, longest=longest, mean=mean or longest)


@pytest.mark.parametrize("length", [1024, 4096])
@pytest.mark.parametrize("card", ["", H100])
def test_a_plan_for_7_5_gib(length: int, card: str) -> None:
    plan = choose(load_profile("rtx8"), QWEN, int(7.5 * GIB), rows(8, length), card)
    assert plan.settings.token_budget >= length
    assert plan.peak.allocated * HEADROOM <= 7.5 * GIB
    assert not plan.settings.dequantized_base


def test_a_large_card_computes_nothing_again() -> None:
    plan = choose(load_profile("a100"), QWEN, 79 * GIB, rows(16, 4096), H100)
    assert plan.settings.dequantized_base
    assert plan.settings.checkpointed_layers == 0
    assert not plan.settings.offload_activations
    assert not plan.settings.embedding_on_host


def test_less_memory_means_fewer_tokens_or_more_layers_checkpointed() -> None:
    profile = load_profile("rtx8")
    peaks = [choose(profile, QWEN, int(size * GIB), rows(8, 1024), H100).peak.allocated for size in (6, 8, 16, 40)]
    assert peaks == sorted(peaks)


def test_what_is_set_is_kept() -> None:
    sets = [
        "training.token_budget=2048", "training.checkpointed_layers=28", "training.offload_activations=true",
        "training.embedding_on_host=false", "training.dequantized_base=false",
    ]  # fmt: skip
    settings = choose(load_profile("rtx8", sets), QWEN, 79 * GIB, rows(8, 1024), H100).settings
    assert (settings.token_budget, settings.checkpointed_layers) == (2048, 28)
    assert settings.offload_activations
    assert not settings.embedding_on_host
    assert not settings.dequantized_base
    off = load_profile("rtx8", ["training.gradient_checkpointing=false"])
    assert choose(off, QWEN, 79 * GIB, rows(8, 1024), H100).settings.checkpointed_layers == 0


def test_attention_that_is_kept_spares_its_work_and_takes_memory() -> None:
    """Of a layer of Qwen2.5-7B 29.4 of 233 million weights are attention's, and 67.9 the MLP's last matrix."""
    work, device = rows(8, 1024), device_for(8)
    sets = ["training.offload_activations=true", "training.token_budget=8192"]
    profiles = [load_profile("rtx8", [*sets, f"training.keep_attention={kept}"]) for kept in ("false", "true")]
    without, kept = (choose(profile, QWEN, int(7.5 * GIB), work) for profile in profiles)
    assert not without.settings.keep_attention
    assert "28 layers checkpointed, their attention kept, activations in host memory" in str(kept)
    spared = flops(QWEN, without.settings)[1] - flops(QWEN, kept.settings)[1]
    assert spared == 28 * 2 * (2 * 3584 * 3584 + 2 * 512 * 3584)
    assert seconds(profiles[1], QWEN, kept.settings, work, device) < seconds(
        profiles[0], QWEN, without.settings, work, device
    )
    held = [
        peak(profiles[0], QWEN, settings).kept
        for settings in (without.settings, without.settings.model_copy(update={"keep_attention": True}))
    ]
    assert held[0] < held[1] < 5 * held[0]


def test_what_is_too_much_for_the_way_to_the_host_is_waited_for() -> None:
    """Every layer's activations of 8,192 tokens are 22 GB, there and back at 10 GB/s."""
    profile = load_profile("rtx8", ["training.offload_activations=true", "training.checkpointed_layers=0"])
    settings = MemorySettings(token_budget=8192, checkpointed_layers=0, offload_activations=True)
    moved = kept_bytes_per_token(profile, QWEN, settings) * 8192 / HOST_BYTES_PER_SECOND
    fast, slow = (seconds(profile, QWEN, settings, rows(8, 1024), device_for(gib)) for gib in (81, 8))
    assert fast == pytest.approx(2 * moved, rel=0.1)
    assert slow > 4 * moved


def test_a_tied_embedding_stays_where_the_head_is() -> None:
    tied = QWEN.model_copy(update={"tie_word_embeddings": True})
    assert not choose(load_profile("rtx8"), tied, int(7.5 * GIB), rows(8, 1024)).settings.embedding_on_host


def test_what_fits_nowhere_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"training doesn't fit: .* it takes .* GB at its peak") as caught:
        choose(load_profile("rtx8"), QWEN, 4 * GIB, rows(8, 1024))
    assert "max_seq_length" in str(caught.value)
    with pytest.raises(ConfigError, match="rows of up to 60000 tokens"):
        choose(load_profile("rtx8"), QWEN, int(7.5 * GIB), rows(1, 60000))


def test_a_plan_says_what_it_does() -> None:
    text = str(choose(load_profile("a100"), QWEN, 79 * GIB, rows(16, 4096), H100))
    assert text.startswith("16,384 tokens at a time, 0 layers checkpointed, base dequantized once: ")
    assert text.endswith(" GiB of 79.0 expected")


def test_steps_of_many_rows_are_cut_up_in_fewer_ways_than_they_have_rows() -> None:
    assert budgets(None, rows(8, 1024)) == [8192, 4096, 2731, 2048, 1639, 1366, 1171, 1024]
    assert budgets(None, rows(1, 1024)) == [1024]
    many = budgets(None, rows(512, 1024))
    assert (many[0], many[-1]) == (512 * 1024, 1024)
    assert len(many) < 50
    assert all(one < 2 * other for one, other in itertools.pairwise(many[1:]))


def test_the_profile_s_own_card() -> None:
    for name in ("rtx8", "a100"):
        profile = load_profile(name)
        assert choose(profile, QWEN, available_on(profile), rows(8, profile.training.max_seq_length))

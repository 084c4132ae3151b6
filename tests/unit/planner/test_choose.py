"""What is chosen for cards of several sizes, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from halops.errors import ConfigError
from halops.planner.choose import HEADROOM, HOST_GIB, Spending, available_on, budgets, choose, plan_for
from halops.planner.peak import host_bytes, peak
from halops.planner.settings import MemorySettings
from halops.planner.step_time import Workload
from halops.profile import load_profile
from halops.sections import Dimensions
from halops.units import GIB

QWEN = Dimensions()
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


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


def test_what_waits_in_host_memory_is_what_its_way_there_allows() -> None:
    """An H200 computes too fast for whole layers' activations (measured, with TRL's offloading: 11,962 tokens/s of
    4,096-token rows where attention's made 14,233, and none 13,337), and short rows give it too little to do meanwhile;
    a card that computes slowly keeps everything."""
    profile, much = load_profile("rtx8"), 100 * GIB

    def planned(work: Workload, card: str) -> str:
        return str(choose(profile, QWEN, int(7.5 * GIB), work, card, much))

    for length, whole in ((4096, "16,384"), (1024, "8,192")):
        found = planned(rows(8, length), H200)
        assert found.startswith(f"{whole} tokens at a time, 28 layers checkpointed, their attention kept, act")
    assert "activations in host memory" not in planned(rows(8, 1024, 390), H200)
    assert "0 layers checkpointed, activations in host memory" in planned(rows(8, 1024), "")


def test_short_rows_get_a_budget_for_their_longest_steps() -> None:
    """Usual steps keep everything in it; a smaller budget would cut long ones up."""
    plan = choose(load_profile("rtx8"), QWEN, 15 * GIB, rows(8, 1024, 390), H200, 0)
    assert str(plan).startswith("8,192 tokens at a time, 19 layers checkpointed (1 in a usual 3,120 tokens), embedding")
    assert "usual" not in str(choose(load_profile("rtx8"), QWEN, 15 * GIB, rows(8, 1024), H200, 0))
    short, full = (choose(load_profile("rtx8"), QWEN, 18 * GIB, rows(8, 1024, mean), H200, 0) for mean in (390, 1024))
    assert full.settings.token_budget < short.settings.token_budget == 8192


def test_no_more_waits_in_host_memory_than_there_is() -> None:
    profile, work = load_profile("rtx8"), rows(8, 1024)
    for card, free in itertools.product((H100, H200, ""), (0, GIB // 4, 2 * GIB, 6 * GIB, 20 * GIB)):
        settings = choose(profile, QWEN, int(7.5 * GIB), work, card, free).settings
        assert host_bytes(profile, QWEN, settings) <= free
    assert settings.checkpointed_layers == 0
    little = load_profile("rtx8", ["training.host_memory_gib=2"])
    for free in (None, 20 * GIB):
        settings = choose(little, QWEN, int(7.5 * GIB), work, "", free).settings
        assert host_bytes(little, QWEN, settings) <= 2 * GIB


def test_host_memory_is_for_all_but_the_last_layer() -> None:
    """Layers' inputs and what adapters made of theirs, 7,168 and 224 bytes a token."""
    profile = load_profile("rtx8", ["training.offload_activations=true"])
    settings = MemorySettings(token_budget=8192, checkpointed_layers=28, offload_activations=True)
    assert host_bytes(profile, QWEN, settings) == 27 * 8192 * 2 * (3584 + 48 + 16 + 32 + 16)
    assert host_bytes(profile, QWEN, settings.model_copy(update={"offload_activations": False})) == 0
    whole = settings.model_copy(update={"checkpointed_layers": 0, "keep_attention": True})
    last = settings.model_copy(update={"checkpointed_layers": 27, "keep_attention": False})
    assert host_bytes(profile, QWEN, last) == host_bytes(profile, QWEN, settings)  # the last one's stay
    assert host_bytes(profile, QWEN, whole) > 8 * host_bytes(profile, QWEN, last)


def spent(rows_: int, *sets: str) -> Spending:
    found = plan_for(load_profile("rtx8", sets), QWEN, rows(rows_, 1024))
    assert found
    return found


def test_a_pod_asks_for_the_host_memory_of_all_its_gpus() -> None:
    some = "training.host_memory_gib=12"
    alone, together = spent(8, some), spent(4, some, "cluster.gpu.count=2")
    assert 6 * GIB < alone.host <= 12 * GIB
    assert 6 * GIB < together.host <= 12 * GIB
    assert spent(8).host <= HOST_GIB * GIB
    assert spent(8, "training.host_memory_gib=0").host == 0
    assert spent(8, some).seconds < spent(8).seconds < spent(8, "training.host_memory_gib=0").seconds


def test_a_plan_says_what_more_host_memory_would_make_of_it() -> None:
    """Rows of 4,096 fill the 4 GiB that a pod asks for by itself; short ones need no more."""
    long, more = (
        plan_for(load_profile("rtx8", ["training.max_seq_length=4096", *sets]), QWEN, rows(8, 4096))
        for sets in ((), ("training.host_memory_gib=12",))
    )
    assert long
    assert more
    assert long.words.endswith("; 18% less time with training.host_memory_gib=12")
    assert more.seconds == pytest.approx(0.82 * long.seconds, rel=0.01)
    assert 11 * GIB < more.host <= 12 * GIB
    for words in (spent(8).words, spent(8, "training.host_memory_gib=0").words):
        assert "less time" not in words
    large = plan_for(load_profile("a100"), QWEN, rows(16, 4096))
    assert large
    assert "less time" not in large.words


def test_long_rows_may_take_more_of_the_host_than_a_pod_asks_for_by_itself() -> None:
    """40,000 tokens' inputs of 28 layers are 14 GiB, pinned."""
    work, card = rows(1, 40000), 12 * GIB
    plan = choose(load_profile("rtx8"), QWEN, card, work)
    assert plan.settings.offload_activations
    assert host_bytes(load_profile("rtx8"), QWEN, plan.settings) > HOST_GIB * GIB
    with pytest.raises(ConfigError):
        choose(load_profile("rtx8", ["training.host_memory_gib=4"]), QWEN, card, work)


def test_attention_that_is_kept_takes_memory() -> None:
    profile = load_profile("rtx8", ["training.keep_attention=true", "training.checkpointed_layers=28"])
    plan = choose(profile, QWEN, int(7.5 * GIB), rows(8, 1024))
    assert "28 layers checkpointed, their attention kept" in str(plan)
    without = peak(profile, QWEN, plan.settings.model_copy(update={"keep_attention": False})).kept
    assert without < plan.peak.kept < 5 * without


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

"""Five methods side by side: golden tables, and the facts that make one choose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halops.compare import MethodRow, compare_methods, fits
from halops.profile import load_profile, shipped_profiles
from halops.sections import Dimensions
from halops.units import GIB, human_bytes, human_count, human_gib, human_seconds

QWEN = Dimensions()


def table(rows: list[MethodRow]) -> str:
    lines = []
    for row in rows:
        cards = " ".join(f"{card}:{'yes' if fit else 'no'}" for card, fit in row.fits.items())
        lines.append(
            f"{row.method:25} {human_count(row.trainable_parameters):>8} {human_gib(row.vram_bytes):>10} "
            f"{human_bytes(row.optimizer_bytes):>8} {human_bytes(row.artifact_bytes):>8} {row.relative_flops:>5.2f} "
            f"{human_seconds(row.seconds_per_1000_rows):>13} {row.prompt_tokens:>5} "
            f"{human_bytes(row.kv_bytes):>8}  {cards}"
        )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", shipped_profiles())
def test_golden_tables(name: str, golden: Callable[[str, str], None]) -> None:
    profile = load_profile(name)
    assert profile.model.dimensions
    golden(f"compare-{name}.txt", table(compare_methods(profile, profile.model.dimensions)))


def test_the_facts_that_decide() -> None:
    full, lora, qlora, prompt, context = compare_methods(load_profile("rtx8"), QWEN)
    assert full.trainable_parameters == 7_615_616_512
    assert lora.trainable_parameters == qlora.trainable_parameters == 40_370_176
    assert prompt.trainable_parameters == 20 * 3584
    assert full.vram_bytes > 16 * 7.6e9
    assert full.vram_bytes > lora.vram_bytes > qlora.vram_bytes
    assert [row.fits[8] for row in (full, lora, qlora, prompt, context)] == [False, False, True, False, True]
    assert [row.fits[24] for row in (full, lora, qlora)] == [False, True, True]
    assert not any(full.fits.values())
    assert full.artifact_bytes == 2 * 7_615_616_512
    assert qlora.artifact_bytes < 0.02 * full.artifact_bytes
    assert full.relative_flops == pytest.approx(8 / 6, abs=0.01)
    assert qlora.relative_flops == 1


def test_in_context_pays_at_every_request() -> None:
    *_, prompt, context = compare_methods(load_profile("rtx8"), QWEN)
    assert context.trainable_parameters == context.artifact_bytes == context.seconds_per_1000_rows == 0
    assert context.prompt_tokens == 8 * 390
    assert context.kv_bytes == context.prompt_tokens * 57_344
    assert prompt.kv_bytes == 20 * 57_344


def test_cards() -> None:
    assert fits(round(7.7 * GIB))[8]
    assert not fits(round(7.9 * GIB))[8]
    assert list(fits(30 * GIB).values()) == [False, False, True, True]

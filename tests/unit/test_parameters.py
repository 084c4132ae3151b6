"""Parameter counts are exact: published numbers, and what torch counts in the real architectures."""

from __future__ import annotations

import pytest

from halops.parameters import largest_tensor, linear_parameters, lora_parameters, parameters
from halops.profile import load_profile
from halops.sections import Dimensions, Lora

QWEN = Dimensions()
SMOL = Dimensions(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True, attention_bias=False, max_position_embeddings=8192,
)  # fmt: skip
LLAMA3_8B = Dimensions(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, attention_bias=False,
)  # fmt: skip
MISTRAL_7B = Dimensions(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=32768, attention_bias=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "count"),
    [(QWEN, 7_615_616_512), (SMOL, 134_515_008), (LLAMA3_8B, 8_030_261_248), (MISTRAL_7B, 7_248_023_552)],
)
def test_published_counts(dims: Dimensions, count: int) -> None:
    assert parameters(dims) == count


def test_shipped_profiles_carry_these_dimensions() -> None:
    assert load_profile("rtx8").model.dimensions == QWEN
    assert load_profile("a100").model.dimensions == QWEN
    assert load_profile("local").model.dimensions == SMOL


def test_lora_on_all_linears() -> None:
    assert lora_parameters(QWEN, Lora()) == 40_370_176
    assert lora_parameters(QWEN, Lora(target_modules=("all-linear",))) == 40_370_176
    assert lora_parameters(QWEN, Lora(r=32)) == 2 * 40_370_176
    assert lora_parameters(SMOL, Lora()) == 4_884_480


def test_lora_on_attention_only() -> None:
    """q and o are 3584 square, k and v go to 512."""
    lora = Lora(target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert lora_parameters(QWEN, lora) == 28 * 16 * (2 * 7168 + 2 * (3584 + 512))


def test_rank_pattern_changes_what_it_matches() -> None:
    down = 28 * (3584 + 18944)
    assert lora_parameters(QWEN, Lora(rank_pattern={"down_proj": 8})) == 40_370_176 - 8 * down
    assert lora_parameters(QWEN, Lora(rank_pattern={r"layers\.0\.mlp\.down_proj": 8})) == 40_370_176 - 8 * (
        3584 + 18944
    )
    assert lora_parameters(QWEN, Lora(rank_pattern={"own_proj": 8})) == 40_370_176  # not from a name's beginning


def test_fused_projections_have_one_pair_of_factors() -> None:
    fused = lora_parameters(SMOL, Lora(target_modules=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")))
    assert fused == 30 * 16 * ((576 + 960) + (576 + 576) + (576 + 3072) + (1536 + 576))


def test_a_model_without_targets_trains_nothing() -> None:
    assert lora_parameters(QWEN, Lora(target_modules=())) == 0


def test_parts() -> None:
    assert linear_parameters(QWEN) == 6_525_288_448
    assert largest_tensor(QWEN) == 152064 * 3584

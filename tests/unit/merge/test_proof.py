"""The second reader: it agrees with a right merge, and catches each way to get one wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from halops.errors import IntegrityError, NotFoundError
from halops.merge.merge import merge_adapter
from halops.merge.proof import Proof, prove_merge
from halops.merge.tensors import read_model

if TYPE_CHECKING:
    from .conftest import Pair

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
KINDS = {"float16": "F16", "bfloat16": "BF16"}


def proof(pair: Pair, **options: Any) -> Proof:
    return prove_merge(pair.base, pair.adapter, pair.output, **options)


def bits(pair: Pair, name: str) -> np.ndarray:
    """The merged tensor's own bits, writable in place."""
    tensor = read_model(pair.output)[name]
    return np.memmap(tensor.file, np.uint16, "r+", tensor.offset, tensor.shape)


def merge_another(pair: Pair, change: Callable[[Pair], None]) -> None:
    """Merge a changed adapter or base, then put the right one back."""
    lora, config, tensors = dict(pair.lora), dict(pair.lora_config), dict(pair.tensors)
    change(pair)
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    pair.lora, pair.lora_config, pair.tensors = lora, config, tensors
    pair.write()


@pytest.mark.parametrize("sample", [None, 1, 8, 10_000])
@pytest.mark.parametrize("dtype", KINDS)
def test_agrees_with_a_right_merge(dtype: Any, sample: int | None, pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output, dtype=dtype, max_shard_bytes=20_000)
    assert proof(pair, sample=sample) == Proof(4, [], [])


def failed(found: Proof) -> list[str]:
    return [failure.split(":")[0] for failure in found.failures]


def test_catches_an_adapter_that_was_not_applied(pair: Pair) -> None:
    def nothing(pair: Pair) -> None:
        pair.lora = {name: (dtype, array * 0) for name, (dtype, array) in pair.lora.items()}

    merge_another(pair, nothing)
    found = proof(pair)
    assert failed(found) == [DOWN, UP]
    assert found.unchanged == [DOWN, UP]


def test_catches_one_target_that_was_left_out(pair: Pair) -> None:
    def one(pair: Pair) -> None:
        pair.lora = {name: value for name, value in pair.lora.items() if "up_proj" in name}

    merge_another(pair, one)
    found = proof(pair)
    assert (failed(found), found.unchanged) == ([DOWN], [DOWN])


@pytest.mark.parametrize("factor", [2.0, 0.5, -1.0, 1.01, 1 / 16])
def test_catches_a_wrong_scale(factor: float, pair: Pair) -> None:
    merge_another(pair, lambda pair: pair.lora_config.update(lora_alpha=8 * factor))
    found = proof(pair)
    assert (failed(found), found.unchanged) == ([DOWN, UP], [])


def test_catches_a_scale_of_the_other_kind(pair: Pair) -> None:
    merge_another(pair, lambda pair: pair.lora_config.update(use_rslora=True))
    assert failed(proof(pair)) == [DOWN, UP]


def test_catches_an_adapter_applied_twice(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    twice = pair.output.with_name("twice")
    merge_adapter(pair.output, pair.adapter, twice)
    pair.output = twice
    assert failed(proof(pair)) == [DOWN, UP]


def test_catches_swapped_matrices(pair: Pair) -> None:
    for name in (UP, UP.replace("0", "1")):
        module = f"base_model.model.{name.removesuffix('.weight')}"
        source = UP.removesuffix(".weight")
        pair.tensors[name] = pair.tensors[UP]
        for half in "AB":
            dtype, array = pair.lora[f"base_model.model.{source}.lora_{half}.weight"]
            pair.lora[f"{module}.lora_{half}.weight"] = (dtype, array if name == UP else array[::-1].copy())
    pair.write()

    def swap(pair: Pair) -> None:
        for name in [name for name in pair.lora if "layers.0.mlp.up" in name]:
            other = name.replace("0", "1")
            pair.lora[name], pair.lora[other] = pair.lora[other], pair.lora[name]

    merge_another(pair, swap)
    assert failed(proof(pair)) == [UP, UP.replace("0", "1")]


@pytest.mark.parametrize("name", [NORM, EMBEDDING])
def test_catches_a_changed_copy(name: str, pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    bits(pair, name)[..., 3] ^= 1  # one unit, in each row
    assert failed(proof(pair)) == [name]


def test_catches_swapped_rows(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    stored = bits(pair, EMBEDDING)
    stored[:] = stored[::-1].copy()
    assert failed(proof(pair, sample=2)) == [EMBEDDING]


@pytest.mark.parametrize("wrong", [0x7E00, 0x7C00, 0x0001])  # NaN, infinity, nearly zero
def test_catches_a_single_element(wrong: int, pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    bits(pair, UP)[60, 40] = wrong
    assert failed(proof(pair, sample=None)) == [UP]


def test_a_change_below_a_unit_still_has_to_be_there(pair: Pair) -> None:
    """A tenth of a unit moves one element in ten: within one unit of the base everywhere, and yet caught."""

    def fainter(pair: Pair) -> None:
        for name, (dtype, array) in list(pair.lora.items()):
            if "lora_B" in name:
                pair.lora[name] = (dtype, array * np.float32(1e-4))

    fainter(pair)
    pair.write()
    merge_adapter(pair.base, pair.adapter, pair.output)
    assert proof(pair).failures == []
    pair.output = pair.output.with_name("base-only")
    merge_another(pair, lambda pair: pair.lora_config.update(lora_alpha=1e-9))
    assert failed(proof(pair)) == [DOWN, UP]


def test_a_change_that_rounding_swallowed_is_unchanged_but_no_failure(pair: Pair) -> None:
    pair.lora_config["lora_alpha"] = 1e-9
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    assert proof(pair) == Proof(4, [], [DOWN, UP])


def test_an_untrained_adapter_changes_nothing(pair: Pair) -> None:
    pair.lora = {name: (dtype, array * ("lora_A" in name)) for name, (dtype, array) in pair.lora.items()}
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    assert proof(pair) == Proof(4, [], [])


def test_names_tensors_that_are_missing_or_too_many(pair: Pair) -> None:
    def others(pair: Pair) -> None:
        pair.tensors["extra"] = pair.tensors.pop(NORM)

    merge_another(pair, others)
    assert sorted(failed(proof(pair))) == ["extra", NORM]


def test_names_a_shape_that_changed(pair: Pair) -> None:
    def transpose(pair: Pair) -> None:
        dtype, array = pair.tensors[EMBEDDING]
        pair.tensors[EMBEDDING] = (dtype, array.reshape(64, 300))

    merge_another(pair, transpose)
    assert proof(pair).failures == [f"{EMBEDDING}: its shape is [64, 300], the base's is [300, 64]"]


def test_names_a_dtype_that_cannot_be(pair: Pair, make_safetensors: Callable[..., None]) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    tensors = {name: ("F32", np.zeros(array.shape, np.float32)) for name, (_, array) in pair.tensors.items()}
    make_safetensors(pair.output / "model.safetensors", tensors)
    assert len(proof(pair).failures) == 4


def test_integers_must_be_equal(pair: Pair) -> None:
    pair.tensors["ids"] = ("I64", np.arange(9))
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    assert proof(pair).failures == []
    pair.tensors["ids"] = ("I64", np.arange(9) + 1)
    assert failed(proof(pair.write())) == ["ids"]


def test_patterns_are_resolved(pair: Pair) -> None:
    pair.lora_config |= {"alpha_pattern": {r"layers\.0\..*up_proj": 3, "up_proj": 5}, "use_rslora": True}
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    assert proof(pair) == Proof(4, [], [])
    pair.lora_config["alpha_pattern"] = {"up_proj": 5}
    assert failed(proof(pair.write())) == [UP]


def test_damage_is_an_integrity_error(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    weights = pair.output / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    with pytest.raises(IntegrityError, match="can't be read as safetensors"):
        proof(pair)
    weights.unlink()
    with pytest.raises(NotFoundError):
        proof(pair)


def test_the_seed_picks_the_rows(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    bits(pair, EMBEDDING)[100] ^= 1
    found = {bool(proof(pair, sample=100, seed=seed).failures) for seed in range(30)}
    assert found == {True, False}
    assert json.loads((pair.output / "merge.json").read_text())["dtype"] == "float16"


def test_reads_what_the_adapter_repeats_of_the_base(pair: Pair) -> None:
    """peft stores an adapted head's own weight beside its pair, and loads it over the base's."""
    own = (pair.tensors[UP][1] ^ 0x40).copy()
    pair.lora[f"base_model.model.{UP.removesuffix('.weight')}.base_layer.weight"] = ("BF16", own)
    merge_adapter(pair.write().base, pair.adapter, pair.output)
    assert proof(pair) == Proof(4, [], [])
    del pair.lora[f"base_model.model.{UP.removesuffix('.weight')}.base_layer.weight"]
    assert failed(proof(pair.write())) == [UP]


def test_no_adapter(pair: Pair, tmp_path: Path) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    with pytest.raises(NotFoundError, match="adapter_config"):
        prove_merge(pair.base, tmp_path, pair.output)


def test_names_tensors_that_no_plain_lora_has(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    magnitude = f"base_model.model.{UP.removesuffix('.weight')}.lora_magnitude_vector"
    pair.lora[magnitude] = ("F32", np.ones(130, np.float32))
    assert failed(proof(pair.write())) == [magnitude]


def test_names_targets_that_the_base_lacks(pair: Pair) -> None:
    merge_adapter(pair.base, pair.adapter, pair.output)
    for half, shape in (("A", (4, 64)), ("B", (64, 4))):
        pair.lora[f"base_model.model.model.layers.9.up_proj.lora_{half}.weight"] = ("F32", np.ones(shape, np.float32))
    assert failed(proof(pair.write())) == ["model.layers.9.up_proj.weight"]

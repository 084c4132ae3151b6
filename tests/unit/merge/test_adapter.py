"""What counts as an adapter that the plain formula covers."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.merge.adapter import REFUSED, LoraConfig, read_adapter, resolve_targets
from halops.merge.tensors import read_model

if TYPE_CHECKING:
    from .conftest import Pair

UP = "model.layers.0.mlp.up_proj"
PREFIX = "base_model.model."


def resolve(pair: Pair) -> Any:
    return resolve_targets(read_adapter(pair.adapter), read_model(pair.base), pair.config)


def test_finds_pairs_with_rank_and_scale(pair: Pair) -> None:
    adapter = read_adapter(pair.adapter)
    assert sorted(adapter.pairs) == ["model.layers.0.mlp.down_proj.weight", f"{UP}.weight"]
    assert all((found.rank, found.scale) == (4, 2.0) for found in adapter.pairs.values())


@pytest.mark.parametrize(
    ("settings", "module", "rank", "scale"),
    [
        ({}, "model.layers.0.q_proj", 8, 2.0),
        ({"use_rslora": True}, "model.layers.0.q_proj", 8, 16 / math.sqrt(8)),
        ({"rank_pattern": {"q_proj": 2}}, "model.layers.0.q_proj", 2, 8.0),
        ({"rank_pattern": {"proj": 2}}, "model.layers.0.q_proj", 8, 2.0),  # a whole dotted part, not any suffix
        ({"rank_pattern": {r"layers\.[01]\..*": 2}}, "model.layers.1.q_proj", 2, 8.0),
        ({"rank_pattern": {r"layers\.[01]\..*": 2}}, "model.layers.2.q_proj", 8, 2.0),
        ({"rank_pattern": {"q_proj": 2, ".*": 4}}, "model.q_proj", 2, 8.0),  # the first that matches
        ({"rank_pattern": {".*": 4, "q_proj": 2}}, "model.q_proj", 4, 4.0),
        ({"rank_pattern": {"^model.q_proj": 4}}, "model.q_proj", 4, 4.0),
        ({"rank_pattern": {"^q_proj": 4}}, "model.q_proj", 8, 2.0),
        ({"alpha_pattern": {"a|q_proj": 4}}, "model.q_proj", 8, 0.5),
        ({"alpha_pattern": {"q_proj": 5}, "use_rslora": True, "rank_pattern": {"q_proj": 3}}, "q_proj", 3, 5 / 3**0.5),
    ],
)
def test_patterns(settings: dict[str, Any], module: str, rank: int, scale: float) -> None:
    config = LoraConfig(r=8, lora_alpha=16, **settings)
    assert (config.rank(module), config.scale(module)) == (rank, scale)


@pytest.mark.parametrize("key", REFUSED)
def test_each_setting_that_breaks_the_formula_is_refused(key: str, pair: Pair) -> None:
    pair.lora_config[key] = {"x": 1}
    with pytest.raises(ModelError, match=f"{key}: "):
        read_adapter(pair.write().adapter)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "IA3"}, "IA3 is not LoRA"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING is not LoRA"),
        ({"bias": "all"}, "bias: all"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: pissa_niter_4"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights: loftq"),
        ({"use_brand_new_thing": True}, "use_brand_new_thing: a setting that isn't known"),
        ({"brand_new_config": {"x": 1}}, "brand_new_config: a setting that isn't known"),
        ({"rank_pattern": {"(": 1}}, r"rank_pattern\.\(: not a regular expression"),
        ({"r": "many"}, "r: "),
        ({"r": 0}, "r: "),
        ({"lora_alpha": None}, "lora_alpha: "),
    ],
)
def test_refuses_by_name(settings: dict[str, Any], says: str, pair: Pair) -> None:
    pair.lora_config |= settings
    with pytest.raises(ModelError) as caught:
        read_adapter(pair.write().adapter)
    assert __import__("re").search(says, str(caught.value)), caught.value


def test_harmless_settings_pass(pair: Pair) -> None:
    pair.lora_config |= {"use_dora": False, "new_flag": False, "new_list": [], "lora_dropout": 0.1, "bias": "none",
                         "auto_mapping": {"base_model_class": "X"}, "init_lora_weights": "gaussian"}  # fmt: skip
    assert len(read_adapter(pair.write().adapter).pairs) == 2


def test_all_reasons_at_once(pair: Pair) -> None:
    pair.lora_config |= {"use_dora": True, "bias": "all", "fan_in_fan_out": True}
    with pytest.raises(ModelError) as caught:
        read_adapter(pair.write().adapter)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["use_dora", "fan_in_fan_out", "bias"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"{PREFIX}{UP}.lora_magnitude_vector", "DoRA's magnitudes"),
        (f"{PREFIX}{UP}.lora_magnitude_vector.weight", "DoRA's magnitudes"),
        (f"{PREFIX}model.embed_tokens.lora_embedding_A", "an adapted embedding"),
        (f"{PREFIX}lm_head.weight", "a whole module"),
        (f"{PREFIX}{UP}.lora_B.bias", "a trained bias"),
        (f"{PREFIX}{UP}.lora_A.second.weight", "not a LoRA tensor that is known"),
        (f"{UP}.lora_A.weight", "not a LoRA tensor that is known"),
    ],
)
def test_names_tensors_that_do_not_belong(name: str, says: str, pair: Pair) -> None:
    pair.lora[name] = ("F32", np.ones((4, 64), np.float32))
    with pytest.raises(ModelError) as caught:
        read_adapter(pair.write().adapter)
    assert caught.value.problems == (next(p for p in caught.value.problems if p.startswith(f"{name}: {says}")),)


@pytest.mark.parametrize("half", ["A", "B"])
def test_names_a_missing_half(half: str, pair: Pair) -> None:
    del pair.lora[f"{PREFIX}{UP}.lora_{half}.weight"]
    with pytest.raises(ModelError, match=f"{UP}: lora_{half} is missing"):
        read_adapter(pair.write().adapter)


def test_a_rank_that_the_config_does_not_have(pair: Pair) -> None:
    pair.lora_config["r"] = 8
    with pytest.raises(ModelError, match="are not of the config's rank 8") as caught:
        read_adapter(pair.write().adapter)
    assert len(caught.value.problems) == 2


def test_an_empty_adapter(pair: Pair) -> None:
    pair.lora.clear()
    with pytest.raises(ModelError, match="no LoRA tensors"):
        read_adapter(pair.write().adapter)


def test_names_every_target_that_the_base_lacks(pair: Pair) -> None:
    for name in list(pair.tensors):
        if "proj" in name:
            del pair.tensors[name]
    with pytest.raises(ModelError, match="2 of the adapter's 2 targets don't fit") as caught:
        resolve(pair.write())
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["model.layers.0.mlp.down_proj", UP]


def test_names_a_target_of_another_shape(pair: Pair) -> None:
    dtype, values = pair.tensors[f"{UP}.weight"]
    pair.tensors[f"{UP}.weight"] = (dtype, values[:100])
    with pytest.raises(ModelError, match=r"changes a \[130, 64\], the base has a \[100, 64\]"):
        resolve(pair.write())


def test_names_a_quantized_target(pair: Pair) -> None:
    pair.tensors[f"{UP}.weight"] = ("U8", np.zeros((130, 64), np.uint8))
    with pytest.raises(ModelError, match="the base's tensor is U8"):
        resolve(pair.write())


@pytest.mark.parametrize("stored", [True, False])
def test_a_tied_head_is_refused(stored: bool, pair: Pair) -> None:
    pair.lora[f"{PREFIX}lm_head.lora_A.weight"] = ("F32", np.ones((4, 64), np.float32))
    pair.lora[f"{PREFIX}lm_head.lora_B.weight"] = ("F32", np.ones((300, 4), np.float32))
    if stored:
        pair.tensors["lm_head.weight"] = pair.tensors["model.embed_tokens.weight"]
    with pytest.raises(ModelError, match="lm_head: the head is tied to the embedding"):
        resolve(pair.write())


def test_missing_and_damaged_files(pair: Pair) -> None:
    weights, config = pair.adapter / "adapter_model.safetensors", pair.adapter / "adapter_config.json"
    weights.rename(pair.adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="are a pickle"):
        read_adapter(pair.adapter)
    (pair.adapter / "adapter_model.bin").unlink()
    with pytest.raises(NotFoundError, match=r"no adapter_model\.safetensors"):
        read_adapter(pair.adapter)
    config.write_text("{")
    with pytest.raises(IntegrityError, match="not valid JSON"):
        read_adapter(pair.adapter)
    config.write_text(json.dumps([1]))
    with pytest.raises(IntegrityError, match="not an object"):
        read_adapter(pair.adapter)
    config.unlink()
    with pytest.raises(NotFoundError, match=r"no adapter_config\.json"):
        read_adapter(pair.adapter)

"""The merge beside PEFT's own, on small random models of real architectures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from halops.errors import ModelError
from halops.merge import blocks
from halops.merge.adapter import LoraConfig as OurConfig
from halops.merge.merge import merge_adapter
from halops.merge.proof import prove_merge

SIZES = {
    "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 331, "pad_token_id": 0,
}  # fmt: skip
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Case:
    """One base and one adapter."""

    family: str
    stored: torch.dtype
    tied: bool = False
    shard: str = "5GB"
    targets: list[str] = field(default_factory=lambda: LLAMA)
    lora: dict[str, Any] = field(default_factory=dict)


CASES = {
    "qwen2-bf16-sharded": Case("qwen2", torch.bfloat16, shard="200KB"),
    "llama-bf16-tied": Case("llama", torch.bfloat16, tied=True),
    "llama-f32-with-head": Case("llama", torch.float32, targets=["q_proj", "lm_head"]),
    "qwen2-f16-rslora": Case("qwen2", torch.float16, lora={"use_rslora": True, "r": 12, "lora_alpha": 20}),
    "llama-patterns": Case("llama", torch.bfloat16, lora={
        "rank_pattern": {"v_proj": 3, r"layers\.1\.mlp\..*": 5, "^model.layers.0.self_attn.q_proj": 7},
        "alpha_pattern": {"v_proj": 9, "down_proj": 31}, "use_rslora": True}),
    "phi3-fused-qkv": Case("phi3", torch.bfloat16, targets=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "mistral-rank-1": Case("mistral", torch.bfloat16, lora={"r": 1}),
    "qwen3-r64": Case("qwen3", torch.bfloat16, lora={"r": 64, "lora_alpha": 17}),
}  # fmt: skip


@pytest.fixture(scope="session", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """A folder with `base/` and `adapter/`, as transformers and peft save them."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    torch.manual_seed(7)
    config = AutoConfig.for_model(case.family, tie_word_embeddings=case.tied, **SIZES)
    model = AutoModelForCausalLM.from_config(config).to(case.stored)
    model.save_pretrained(folder / "base", max_shard_size=case.shard)
    lora = {"r": 8, "lora_alpha": 16} | case.lora
    peft = get_peft_model(model, LoraConfig(target_modules=case.targets, init_lora_weights=False, **lora))
    peft.save_pretrained(folder / "adapter")
    return case, folder


def reference(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """PEFT's merge in float32, then cast."""
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    return {name: tensor.to(dtype) for name, tensor in merged.state_dict().items()}


def read(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def units_apart(ours: torch.Tensor, theirs: torch.Tensor, base: torch.Tensor) -> float:
    """The largest distance, in units in the last place: of the base's value, where base and change cancel out."""
    digits, smallest = (10, -24) if ours.dtype == torch.float16 else (7, -133)
    scale = torch.maximum(theirs.double().abs(), base.double().abs())
    unit = torch.exp2((torch.frexp(scale).exponent - 1 - digits).clamp(min=smallest).double())
    return float(((ours.double() - theirs.double()).abs() / unit).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("block", [1 << 19, 1000], ids=["whole", "blocks"])
def test_equals_peft(
    made: tuple[Case, Path], dtype: Any, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = made
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    metrics = merge_adapter(folder / "base", folder / "adapter", tmp_path / "m", dtype=dtype, max_shard_bytes=150_000)
    ours, theirs = read(tmp_path / "m"), reference(folder, getattr(torch, dtype))
    assert theirs.keys() - ours.keys() == ({"lm_head.weight"} if case.tied else set())
    # Equal wherever numpy's and torch's BLAS add a dot product up in the same order; a unit here and there elsewhere.
    differing = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
    assert differing <= 1e-4 * sum(tensor.numel() for tensor in ours.values())
    before = read(folder / "base")
    assert max(units_apart(ours[name], theirs[name], before[name]) for name in ours) <= 1
    assert metrics["merged_tensors"] == sum("lora_A" in name for name in read(folder / "adapter"))
    assert metrics["merged_tensors"] + metrics["copied_tensors"] == len(ours)
    assert not (proof := prove_merge(folder / "base", folder / "adapter", tmp_path / "m", sample=16)).failures, proof
    assert proof.unchanged == []


def test_loads_in_transformers(made: tuple[Case, Path], tmp_path: Path) -> None:
    """The same logits as PEFT's model, from a folder that transformers finds nothing wrong with."""
    case, folder = made
    merge_adapter(folder / "base", folder / "adapter", tmp_path / "m", max_shard_bytes=150_000)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert model.dtype == torch.float16
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("float16", case.tied)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, folder / "adapter")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected, got = adapted(ids).logits, model.float()(ids).logits
    assert (got - expected).norm() < 0.01 * expected.norm()  # float16 weights; a missing adapter is off by more than 1


@pytest.mark.parametrize(
    "patterns", [["q_proj"], ["proj"], [r"layers\.[01]\..*"], ["q_proj", ".*"], ["^model.layers", "k_proj|q_proj"],
                 ["^q_proj"], ["layers.0.self_attn"], [r".*\.0\..*"]]
)  # fmt: skip
def test_patterns_resolve_as_in_peft(patterns: list[str]) -> None:
    ranks = {pattern: number for number, pattern in enumerate(patterns, 1)}
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "lm_head", "q_proj"):
        expected = ranks.get(get_pattern_key(ranks.keys(), module), 99)
        assert OurConfig(r=99, rank_pattern=ranks).rank(module) == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole modules were trained"),
        ({"bias": "lora_only"}, "biases were trained"),
        ({"lora_bias": True}, "trained biases"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "an adapted embedding can't be merged"),
        ({"trainable_token_indices": [1, 2]}, "single embedding rows"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: olora"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refuses_what_peft_can_make(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", tie_word_embeddings=False, **SIZES))
    model.save_pretrained(tmp_path / "base")
    lora = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False} | settings)
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError) as caught:
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert reason in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_refuses_a_tied_head(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", tie_word_embeddings=True, **SIZES))
    model.save_pretrained(tmp_path / "base")
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    peft.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError) as caught:
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert "lm_head: the head is tied to the embedding" in str(caught.value)

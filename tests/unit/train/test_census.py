"""The dtype census finds what nobody asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halops.errors import StageError
from halops.train.census import check, held, offenders, summary


def model() -> nn.Module:
    made = nn.Module()
    made.embed_tokens = nn.Embedding(10, 4, dtype=torch.bfloat16)
    made.lm_head = nn.Linear(4, 10, bias=False, dtype=torch.bfloat16)
    made.lm_head.weight = made.embed_tokens.weight  # tied
    made.norm = nn.LayerNorm(4, dtype=torch.bfloat16)
    made.q_proj = nn.Module()
    made.q_proj.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    made.q_proj.lora_A = nn.Linear(4, 2, bias=False, dtype=torch.bfloat16)
    made.register_buffer("inv_freq", torch.zeros(2))
    return made


def tensors(made: nn.Module) -> list:
    return held((*made.named_parameters(), *made.named_buffers()))


def test_what_was_asked_for_passes() -> None:
    check(tensors(model()), "bfloat16", "bfloat16")


def test_tied_tensors_count_once() -> None:
    assert summary(tensors(model())) == {
        "bfloat16": {"tensors": 4, "elements": 40 + 4 + 4 + 8, "bytes": 112},
        "float32": {"tensors": 1, "elements": 2, "bytes": 8},
        "uint8": {"tensors": 1, "elements": 8, "bytes": 8},
    }


@pytest.mark.parametrize("name", ["embed_tokens", "norm", "q_proj.lora_A"])
def test_an_upcast_is_found(name: str) -> None:
    made = model()
    made.get_submodule(name).float()
    assert {tensor.name.rpartition(".")[0] for tensor in offenders(tensors(made), "bfloat16", "bfloat16")} == {name}
    with pytest.raises(StageError, match=name):
        check(tensors(made), "bfloat16", "bfloat16")


def test_peft_s_k_bit_helper_would_be_caught(tiny_base: object) -> None:
    """The very thing that it is for: PEFT's helper upcasts embedding, norms and head."""
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    loaded = AutoModelForCausalLM.from_pretrained(
        tiny_base,
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
    )
    check(tensors(loaded), "bfloat16", "bfloat16")
    upcast = prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)
    names = {tensor.name for tensor in offenders(tensors(upcast), "bfloat16", "bfloat16")}
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= names


def test_an_adapter_in_fp32_where_fp16_asks_for_it() -> None:
    made = model().half()
    made.q_proj.lora_A.float()
    made.inv_freq = made.inv_freq.float()
    check(tensors(made), "float16", "float32")

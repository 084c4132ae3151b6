"""Puts the fused decoder layers in place of a family's own, for training; evaluation goes through the family's."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halops.planner.settings import MemorySettings
from halops.train import attention
from halops.train.fused.away import Away
from halops.train.fused.layer import decoder_layer
from halops.train.fused.parts import Layer, Rows
from halops.train.fused.projection import Group, Projection

# Memory for dequantized weights, by the kind of group and its shape.
Buffers = defaultdict[str, dict[tuple[int, int], Tensor]]
FAMILIES = ("llama", "mistral", "phi3", "qwen2")  # norm, attention, norm, SwiGLU; no norm or factor in between


def unsupported(config: Any, attention_name: str, weights: torch.dtype, adapter: torch.dtype) -> str | None:
    """Why a family's layers can't be fused, in words; None if they can.

    Args:
        attention_name: as transformers knows it.
        weights, adapter: dtypes of the unquantized weights and of the adapter.
    """
    if config.model_type not in FAMILIES:
        return f"{config.model_type} has other layers"
    if config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        return "its MLP is no plain SwiGLU"
    if getattr(config, "attention_bias", False):
        return "its output projection has a bias"
    if getattr(config, "attention_dropout", 0) or getattr(config, "resid_pdrop", 0):
        return "it has dropout of its own"
    if attention_name != attention.NAME:
        return "its attention has a window"
    if _rotated(config) != _head_dim(config):
        return "it rotates a part of each head"
    if weights != adapter:
        return "its adapter is in another dtype than its weights"
    return None


def install(
    model: Any, spends: Callable[[int], MemorySettings], resident: bool = False, away: Away | None = None
) -> list[Layer]:
    """Let each decoder layer of a PEFT model train as one function. Returns them in order.

    Args:
        spends: how a micro-batch of so many tokens spends memory; always the same for the same number.
        resident: keep the base's weights dequantized.
        away: takes what waits for the backward pass to host memory.
    """
    made, buffers = [], Buffers(dict)
    for index, module in enumerate(decoder_layers(model)):
        layer = describe(module, model.config, index, spends, resident, buffers, away)
        module.forward = types.MethodType(_forward(layer, module.forward), module)
        made.append(layer)
    return made


def decoder_layers(model: Any) -> Any:
    """The list of a causal model's decoder layers, under PEFT or plain."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model.layers


def _forward(layer: Layer, own: Any) -> Any:
    def forward(
        self: Any,
        hidden_states: Tensor,
        *args: Any,
        position_embeddings: Any = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            extra = {"cu_seq_lens_q": cu_seq_lens_q, "max_length_q": max_length_q}
            given = {key: value for key, value in extra.items() if value is not None}
            return own(hidden_states, *args, position_embeddings=position_embeddings, **given, **kwargs)
        batch, length, _ = hidden_states.shape
        if cu_seq_lens_q is None or max_length_q is None:
            cu_seq_lens_q = torch.arange(batch + 1, dtype=torch.int32, device=hidden_states.device) * length
            max_length_q = length
        cos, sin = (table.expand(batch, -1, -1).reshape(batch * length, -1) for table in position_embeddings)
        rows = Rows(cu_seq_lens_q, max_length_q, cos, sin)
        return decoder_layer(hidden_states, layer, rows, dropping=True)

    return forward


def describe(
    module: Any, config: Any, index: int, spends: Callable[[int], MemorySettings], resident: bool, buffers: Buffers,
    away: Away | None = None,
) -> Layer:  # fmt: skip
    """A decoder layer of transformers, its projections under PEFT or plain, as a `Layer`."""
    own, mlp, width = module.self_attn, module.mlp, _head_dim(config)
    qkv = [own.qkv_proj] if hasattr(own, "qkv_proj") else [own.q_proj, own.k_proj, own.v_proj]
    gate_up = [mlp.gate_up_proj] if hasattr(mlp, "gate_up_proj") else [mlp.gate_proj, mlp.up_proj]

    def group(kind: str, modules: list[Any]) -> Group:
        dtype = module.input_layernorm.weight.dtype
        return Group([projection(item) for item in modules], resident, dtype, buffers[kind])

    return Layer(
        qkv=group("qkv", qkv),
        out=group("out", [own.o_proj]),
        gate_up=group("gate_up", gate_up),
        down=group("down", [mlp.down_proj]),
        first_norm=module.input_layernorm.weight,
        second_norm=module.post_attention_layernorm.weight,
        eps=module.input_layernorm.variance_epsilon,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=width,
        scaling=own.scaling,
        index=index,
        spends=spends,
        away=away,
    )


def projection(module: Any, name: str = "default") -> Projection:
    """A linear layer, under PEFT's LoRA or plain."""
    base = getattr(module, "base_layer", module)
    plain = Projection(base.weight, base.bias, base.out_features, base.in_features)
    if base is module:
        return plain
    dropout = module.lora_dropout[name]
    return Projection(
        base.weight, base.bias, base.out_features, base.in_features, module.lora_A[name].weight,
        module.lora_B[name].weight, module.scaling[name], getattr(dropout, "p", 0.0),
    )  # fmt: skip


def _head_dim(config: Any) -> int:
    found: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return found


def _rotated(config: Any) -> int:
    """Width of each head that turns with the position."""
    parameters = getattr(config, "rope_parameters", None) or {}
    share = parameters.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
    return int(_head_dim(config) * share)

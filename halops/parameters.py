"""Exact parameter counts of a dense decoder and its LoRA adapter, from the numbers in its config.json."""

from __future__ import annotations

import re
from typing import NamedTuple

from halops.sections import Dimensions, Lora


class Matrix(NamedTuple):
    """One linear layer's weight, `rows` (outputs) x `columns` (inputs)."""

    name: str
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


def head_dim(dims: Dimensions) -> int:
    """Width of one attention head."""
    return dims.head_dim or dims.hidden_size // dims.num_attention_heads


def layer_matrices(dims: Dimensions) -> tuple[Matrix, ...]:
    """The seven linear layers of one decoder layer, under their usual names."""
    hidden, inner = dims.hidden_size, dims.intermediate_size
    queries = dims.num_attention_heads * head_dim(dims)
    values = dims.num_key_value_heads * head_dim(dims)
    return (
        Matrix("self_attn.q_proj", queries, hidden),
        Matrix("self_attn.k_proj", values, hidden),
        Matrix("self_attn.v_proj", values, hidden),
        Matrix("self_attn.o_proj", hidden, queries),
        Matrix("mlp.gate_proj", inner, hidden),
        Matrix("mlp.up_proj", inner, hidden),
        Matrix("mlp.down_proj", hidden, inner),
    )


def fused_matrices(dims: Dimensions) -> tuple[Matrix, ...]:
    """The same layers as Phi-3 stores them, where q, k, v and gate, up are one matrix each."""
    q, k, v, o, gate, up, down = layer_matrices(dims)
    return (
        Matrix("self_attn.qkv_proj", q.rows + k.rows + v.rows, dims.hidden_size),
        o,
        Matrix("mlp.gate_up_proj", gate.rows + up.rows, dims.hidden_size),
        down,
    )


def adapter_room(rank: int, dequantized_base: bool) -> int:
    """Columns that an adapter's ranks take beside the weights of the same input (halops.train.fused.projection).

    Tensor cores want a row's length in 16 elements. Where weights stay dequantized it is made whole cache lines of 128
    bytes: 0.7% of a step on an H200 (docs/performance.md), for memory that smaller cards don't have.
    """
    aligned = 64 if dequantized_base else 16
    return -(-rank // aligned) * aligned


def room_beside_inputs(rows: int, columns: int) -> bool:
    """Whether an adapter's ranks in the backward pass lie beside the gradient in the input, rather than behind that in
    the output: where the output is far wider (halops.train.fused.projection)."""
    return rows >= 2 * columns


def linear_parameters(dims: Dimensions) -> int:
    """Elements of all decoder linears: what 4-bit quantization applies to."""
    return dims.num_hidden_layers * sum(matrix.size for matrix in layer_matrices(dims))


def embedding_parameters(dims: Dimensions) -> int:
    """Elements of the embedding, and of the head where it isn't the same tensor."""
    return dims.vocab_size * dims.hidden_size * (1 if dims.tie_word_embeddings else 2)


def head_parameters(dims: Dimensions) -> int:
    """Elements of the head as it is computed with, tied or not."""
    return dims.vocab_size * dims.hidden_size


def small_parameters(dims: Dimensions) -> int:
    """Norms, and the biases of q, k and v."""
    norms = (2 * dims.num_hidden_layers + 1) * dims.hidden_size
    if not dims.attention_bias:
        return norms
    heads = dims.num_attention_heads + 2 * dims.num_key_value_heads
    return norms + dims.num_hidden_layers * heads * head_dim(dims)


def parameters(dims: Dimensions) -> int:
    """All parameters. Exact: 7,615,616,512 for Qwen2.5-7B, 134,515,008 for SmolLM2-135M."""
    return linear_parameters(dims) + embedding_parameters(dims) + small_parameters(dims)


def largest_tensor(dims: Dimensions) -> int:
    """Elements of the largest single tensor."""
    return max(head_parameters(dims), *(matrix.size for matrix in layer_matrices(dims)))


def lora_parameters(dims: Dimensions, lora: Lora) -> int:
    """Parameters of the adapter: r x (inputs + outputs) for each targeted matrix of each layer.

    `rank_pattern` keys match a module's full name from its end, as PEFT matches them.
    """
    targets = _targets(dims, lora)
    layers = range(dims.num_hidden_layers)
    if not lora.rank_pattern:  # all layers are alike, and the planner asks a thousand times
        return len(layers) * lora.r * sum(matrix.rows + matrix.columns for matrix in targets)
    return sum(
        _rank(f"model.layers.{layer}.{matrix.name}", lora) * (matrix.rows + matrix.columns)
        for layer in layers
        for matrix in targets
    )


def _targets(dims: Dimensions, lora: Lora) -> list[Matrix]:
    """The matrices of one layer that have an adapter."""
    wanted = set(lora.target_modules)
    fused = wanted & {"qkv_proj", "gate_up_proj"}
    matrices = fused_matrices(dims) if fused else layer_matrices(dims)
    return [matrix for matrix in matrices if "all-linear" in wanted or matrix.name.rpartition(".")[2] in wanted]


def _rank(name: str, lora: Lora) -> int:
    for pattern, rank in lora.rank_pattern.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return rank
    return lora.r

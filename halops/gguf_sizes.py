"""How large a GGUF file of each llama-quantize type is, and how long quantizing takes.

The mixtures follow llama.cpp's src/llama-quant.cpp: which tensors get more bits than the type's name says, and
what a tensor falls back to when its rows aren't multiples of 256. Sizes are those that `llama-quantize --dry-run`
prints; metadata and tokenizer (about 6 MB for 152 k tokens) come on top.
"""

from __future__ import annotations

from halops.parameters import embedding_parameters, head_parameters, layer_matrices, parameters, small_parameters
from halops.sections import Dimensions

# Bits per weight of a tensor type, its block's scales included (ggml-common.h).
BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q5_1": 6.0, "q5_0": 5.5, "q5_k": 5.5,
    "q4_1": 5.0, "q4_0": 4.5, "q4_k": 4.5, "iq4_nl": 4.5, "iq4_xs": 4.25, "q3_k": 3.4375, "q2_k": 2.625,
}  # fmt: skip

# Types with blocks of 256 weights, and what a tensor takes instead when its rows don't divide into them.
FALLBACK = {"q6_k": "q8_0", "q5_k": "q5_1", "q4_k": "q5_0", "q3_k": "q4_0", "q2_k": "q4_0", "iq4_xs": "iq4_nl"}

# File types whose mixture is followed tensor by tensor: the type of most tensors.
MIXTURES = {
    "q2_k": "q2_k", "q3_k_s": "q3_k", "q3_k_m": "q3_k", "q3_k_l": "q3_k", "q4_k_s": "q4_k", "q4_k_m": "q4_k",
    "q5_k_s": "q5_k", "q5_k_m": "q5_k", "q6_k": "q6_k", "q4_0": "q4_0", "q4_1": "q4_1", "q5_0": "q5_0",
    "q5_1": "q5_1", "q8_0": "q8_0", "f16": "f16", "bf16": "bf16", "f32": "f32", "iq4_nl": "iq4_nl", "iq4_xs": "iq4_xs",
}  # fmt: skip
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

# Whole-file bits per weight of the other types, on Llama-3.1-8B (llama.cpp's tools/quantize/README.md).
OTHER_BITS = {
    "iq1_s": 2.0, "iq1_m": 2.15, "iq2_xxs": 2.38, "iq2_xs": 2.59, "iq2_s": 2.74, "iq2_m": 2.93, "q2_k_s": 2.97,
    "iq3_xxs": 3.25, "iq3_xs": 3.5, "iq3_s": 3.66, "iq3_m": 3.76, "tq1_0": 2.0, "tq2_0": 2.3, "mxfp4_moe": 8.5,
}  # fmt: skip

# Seconds per billion parameters on two cores: whole 7B files measured here (f16 50 s, Q4_K_M 201 s), the
# others in proportion to a 2 B slice. A second thread brings a factor of 1.56.
QUANTIZE_SECONDS = {"f16": 6.6, "bf16": 6.6, "f32": 10.0, "q8_0": 3.7, "q5_k_m": 23.7, "q4_k_m": 26.4}


def gguf_bytes(dims: Dimensions, kind: str) -> int:
    """Size in bytes of `NAME-kind.gguf`. An unknown kind counts as 16 bits: an upper bound."""
    kind = ALIASES.get(kind.lower(), kind.lower())
    if kind not in MIXTURES:
        if kind in OTHER_BITS and dims.hidden_size % 256:
            return gguf_bytes(dims, "iq4_nl")  # what nearly every tensor falls back to
        return round(parameters(dims) * OTHER_BITS.get(kind, 16.0) / 8)
    bits = _embedding_bits(dims, kind) + 32.0 * small_parameters(dims)
    for layer in range(dims.num_hidden_layers):
        for matrix in layer_matrices(dims):
            tensor = _mixture(dims, kind, matrix.name.rpartition(".")[2], layer)
            bits += matrix.size * _tensor_bits(tensor, matrix.columns)
    return round(bits / 8)


def table_bytes(dims: Dimensions, kind: str) -> int:
    """Size of an embedding table that isn't also the head: the part of the file that stays on the host."""
    kind = ALIASES.get(kind.lower(), kind.lower())
    if dims.tie_word_embeddings:
        return 0
    bits = _tensor_bits(MIXTURES[kind], dims.hidden_size) if kind in MIXTURES else OTHER_BITS.get(kind, 16.0)
    return round(head_parameters(dims) * bits / 8)


def quantize_seconds(dims: Dimensions, kind: str, cores: int) -> float:
    """Wall time of making one file: from the merged model for f16, else by llama-quantize from f16."""
    two_cores = QUANTIZE_SECONDS.get(kind.lower(), 27.0) * parameters(dims) / 1e9
    return two_cores * 1.56 / (1 + 0.56 * (max(cores, 1) - 1))


def _embedding_bits(dims: Dimensions, kind: str) -> float:
    """Embedding and head; a tied embedding is stored as the head would be."""
    base, hidden = MIXTURES[kind], dims.hidden_size
    kept = base in ("f32", "f16", "bf16", "q8_0")
    head = base if kept else _fallback("q6_k", hidden)
    bits = head_parameters(dims) * BITS[head]
    if not dims.tie_word_embeddings:
        bits += (embedding_parameters(dims) - head_parameters(dims)) * _tensor_bits(base, hidden)
    return bits


def _mixture(dims: Dimensions, kind: str, name: str, layer: int) -> str:
    """The type that llama-quantize wants for one tensor, before any fallback."""
    base, layers = MIXTURES[kind], dims.num_hidden_layers
    early = layer < layers // 8
    grouped = dims.num_attention_heads // dims.num_key_value_heads >= 4
    if kind in ("q4_k_m", "q5_k_m") and name in ("v_proj", "down_proj"):
        more = early or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        return "q6_k" if more else base
    special = {
        ("q4_k_s", "v_proj"): "q5_k" if layer < 4 else base,
        ("q4_k_s", "down_proj"): "q5_k" if early else base,
        ("q3_k_m", "v_proj"): "q5_k" if layer < 2 else "q4_k",
        ("q3_k_m", "down_proj"): "q5_k" if layer < layers // 16 else "q4_k",
        ("q3_k_m", "o_proj"): "q4_k",
        ("q3_k_l", "v_proj"): "q5_k",
        ("q3_k_l", "down_proj"): "q5_k",
        ("q3_k_l", "o_proj"): "q5_k",
        ("q2_k", "v_proj"): "q4_k" if grouped else "q3_k",
        ("q2_k", "down_proj"): "q3_k",
        ("q2_k", "o_proj"): "q3_k",
        ("iq4_nl", "v_proj"): "q5_k" if grouped else base,
        ("iq4_xs", "v_proj"): "q5_k" if grouped else base,
        ("iq4_nl", "down_proj"): "q5_k" if early else base,
        ("iq4_xs", "down_proj"): "q5_k" if early else base,
    }
    return special.get((kind, name), base)


def _fallback(tensor: str, columns: int) -> str:
    return FALLBACK[tensor] if tensor in FALLBACK and columns % 256 else tensor


def _tensor_bits(tensor: str, columns: int) -> float:
    return BITS[_fallback(tensor, columns)]

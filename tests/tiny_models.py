"""Small random models in Hugging Face form, written with numpy alone: they go through every real tool in seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
RANK, ALPHA = 4, 8


def tiny_llama(folder: Path, tokenizer: Path, template: str, *, hidden: int = 256, layers: int = 2) -> Path:
    """A Llama with another model's tokenizer. Rows are multiples of 256, so K-quants need no fallback.

    Weights are spread widely (standard deviation 0.15): with the usual 0.02 all logits are alike, and prove nothing.
    """
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    random = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.15).astype(np.float16)

    tensors = {
        "model.embed_tokens.weight": weight(vocabulary, hidden),
        "model.norm.weight": np.ones(hidden, np.float16),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, rows, columns in _linears(hidden):
            tensors[f"{prefix}.{name}.weight"] = weight(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = np.ones(hidden, np.float16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(hidden, layers, vocabulary)))
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def tiny_adapter(folder: Path, *, hidden: int = 256, layers: int = 2, size: float = 0.05) -> Path:
    """A LoRA adapter for `tiny_llama` on all seven projections, as PEFT writes it."""
    linears = {name.rpartition(".")[2]: (name, rows, columns) for name, rows, columns in _linears(hidden)}
    return write_adapter(folder, layers, linears, size)


def write_adapter(folder: Path, layers: int, linears: dict[str, tuple[str, int, int]], size: float) -> Path:
    """A LoRA adapter in PEFT's files. `linears`: module -> (path in a layer, rows, columns)."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    tensors = {}
    for layer in range(layers):
        for name, rows, columns in linears.values():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = (random.standard_normal((RANK, columns)) * 0.1).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = (random.standard_normal((rows, RANK)) * size).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
        "bias": "none", "target_modules": sorted(linears), "base_model_name_or_path": "base", "fan_in_fan_out": False,
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _linears(hidden: int) -> list[tuple[str, int, int]]:
    """(path in a layer, rows, columns) of the seven projections: 4 heads, 2 of them for keys and values."""
    return [
        ("self_attn.q_proj", hidden, hidden),
        ("self_attn.k_proj", hidden // 2, hidden),
        ("self_attn.v_proj", hidden // 2, hidden),
        ("self_attn.o_proj", hidden, hidden),
        ("mlp.gate_proj", 2 * hidden, hidden),
        ("mlp.up_proj", 2 * hidden, hidden),
        ("mlp.down_proj", hidden, 2 * hidden),
    ]


def _config(hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "head_dim": hidden // 4, "tie_word_embeddings": True, "hidden_act": "silu",
        "dtype": "float16", "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15,
    }  # fmt: skip

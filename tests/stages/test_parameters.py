"""Parameter counts against the real architectures and real PEFT, on the meta device: no memory."""

from __future__ import annotations

import pytest

from halops.parameters import lora_parameters, parameters
from halops.sections import Dimensions, Lora


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Qwen2", "Llama", "Mistral"])
def test_torch_counts_the_same(family: str) -> None:
    """Odd sizes, so that no two factors can be exchanged unseen."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    dims = Dimensions(
        hidden_size=96, intermediate_size=250, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        vocab_size=1003, tie_word_embeddings=family == "Llama", attention_bias=family == "Qwen2",
    )  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**dims.model_dump(exclude={"head_dim", "attention_bias"}))
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        model.tie_weights()
        assert sum(weight.numel() for weight in model.parameters()) == parameters(dims)
        tuned = get_peft_model(model, LoraConfig(r=5, target_modules=list(Lora().target_modules)))
    trained = sum(weight.numel() for weight in tuned.parameters() if weight.requires_grad)
    assert trained == lora_parameters(dims, Lora(r=5))

"""Other families: the loss is theirs, the adapter lands where it should, and what can't be trained says why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halops.errors import ConfigError, IntegrityError, ModelError
from halops.sections import LINEARS
from halops.train.adapter import targets
from halops.train.head import install_chunked_head
from halops.train.model import load_model, read_config
from tests.unit.train.conftest import Attempt, make_inputs, make_model, make_profile

Make = Callable[..., Attempt]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma3_text": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_with_the_loss_of_the_family(family: str, attempt: Make, tmp_path: Path) -> None:
    """One step by the stage; its held-out loss of the base against the family's own forward pass and logits."""
    from transformers import AutoModelForCausalLM

    base = make_model(tmp_path / "base", family, **FAMILIES[family])
    inputs = make_inputs(tmp_path / "in", base)
    metrics = attempt(make_profile(training={"max_steps": 2}), inputs=inputs).run()
    eager = {"attn_implementation": "eager"} if family == "gemma2" else {}
    model = AutoModelForCausalLM.from_pretrained(base, **eager).eval()
    losses, counts = [], []
    for line in (inputs / "data" / "heldout.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids = torch.tensor([row["input_ids"]])
        labels = torch.full_like(ids, -100)
        start, end = row["trained"][0]
        labels[0, start:end] = ids[0, start:end]
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item() * (end - start))
        counts.append(end - start)
    assert metrics["heldout_loss_base"] == pytest.approx(sum(losses) / sum(counts), rel=1e-5)
    assert math.isfinite(metrics["heldout_loss"])


def load(base: Path) -> Any:
    return load_model(base, read_config(base), make_profile(), cuda=False)


def test_the_seven_names_mean_the_fused_ones_of_phi3(tmp_path: Path) -> None:
    found = targets(load(make_model(tmp_path / "base", "phi3")), LINEARS)
    assert found.names == ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")
    assert found.mapping["k_proj"] == "qkv_proj"


def test_unknown_targets_are_named_with_what_is_there(tiny_base: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        targets(load(tiny_base), ("q_proj", "wq", "lm_head"))
    text = str(caught.value)
    assert "wq" in text
    assert "lm_head is not" in text
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in text
    assert "q_proj is not" not in text


def test_an_unknown_transform_of_the_logits_is_refused(tiny_base: Path) -> None:
    """A family that did more to its logits than we know of must not train on another loss in silence."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    own = model.forward

    def forward(**kwargs: Any) -> Any:
        result = own(**kwargs)
        result.logits = result.logits * 0.5
        return result

    model.forward = forward
    with pytest.raises(ModelError, match="changes its logits in a way"):
        install_chunked_head(model)


def damage_pickle(base: Path) -> None:
    torch.save({"a": torch.zeros(1)}, base / "pytorch_model.bin")


def damage_hidden_pickle(base: Path) -> None:
    torch.save({"a": torch.zeros(1)}, base / "model-00002.safetensors")


def damage_no_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()


def damage_truncated(base: Path) -> None:
    data = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(data[: len(data) // 2])


def damage_missing_tensor(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def damage_other_shape(base: Path) -> None:
    change_config(base, intermediate_size=64)


def damage_unknown_type(base: Path) -> None:
    change_config(base, model_type="nonesuch")


def damage_encoder(base: Path) -> None:
    change_config(base, model_type="bert")


def damage_own_code(base: Path) -> None:
    change_config(
        base, model_type="nonesuch", auto_map={"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "m.Y"}
    )
    (base / "configuration_x.py").write_text("raise SystemExit('ran code')")


def damage_quantized(base: Path) -> None:
    change_config(base, quantization_config={"quant_method": "gptq", "bits": 4})


def damage_config_syntax(base: Path) -> None:
    (base / "config.json").write_text("{")


def change_config(base: Path, **changes: Any) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (damage_pickle, ModelError, "pytorch_model.bin is a zip archive of pickles"),
        (damage_hidden_pickle, ModelError, "model-00002.safetensors is a zip archive of pickles"),
        (damage_no_weights, ModelError, r"no config.json with \*.safetensors"),
        (damage_truncated, IntegrityError, "can't be read"),
        (damage_missing_tensor, ModelError, "model.layers.1.mlp.up_proj.weight"),
        (damage_other_shape, ModelError, "mlp"),
        (damage_unknown_type, ModelError, "nonesuch"),
        (damage_encoder, ModelError, "bert"),
        (damage_own_code, ModelError, "config.json can't be used"),
        (damage_quantized, ModelError, "quantized already"),
        (damage_config_syntax, ModelError, "config.json can't be used"),
    ],
)
def test_a_base_that_cannot_be_used(
    damage: Callable[[Path], None], error: type[Exception], says: str, tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base")
    damage(base)
    with pytest.raises(error, match=says):
        load(base)

"""The merge stage on the real SmolLM2: what the next stages get from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from halops.merge.proof import prove_merge
from halops.metrics import METRICS
from halops.profile import Profile
from halops.stages.context import Metrics, StageContext
from halops.stages.merge import run
from tests.stages.specs import base_spec
from tests.tiny_models import write_adapter

LAYERS, HIDDEN, KV, INTERMEDIATE = 30, 576, 192, 1536
LINEARS = {
    "q_proj": ("self_attn.q_proj", HIDDEN, HIDDEN), "k_proj": ("self_attn.k_proj", KV, HIDDEN),
    "v_proj": ("self_attn.v_proj", KV, HIDDEN), "o_proj": ("self_attn.o_proj", HIDDEN, HIDDEN),
    "gate_proj": ("mlp.gate_proj", INTERMEDIATE, HIDDEN), "up_proj": ("mlp.up_proj", INTERMEDIATE, HIDDEN),
    "down_proj": ("mlp.down_proj", HIDDEN, INTERMEDIATE),
}  # fmt: skip
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def stage(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageContext, Metrics]:
    """The stage, run once, with a template inside the base's tokenizer config that must not survive."""
    folder = tmp_path_factory.mktemp("merge")
    base = folder / "inputs" / "base"
    base.mkdir(parents=True)
    for path in smollm2.iterdir():
        (base / path.name).symlink_to(path)
    own = json.loads((smollm2 / "tokenizer_config.json").read_text()) | {"chat_template": "{{ 'the old one' }}"}
    (base / "tokenizer_config.json").unlink()
    (base / "tokenizer_config.json").write_text(json.dumps(own))
    adapter = write_adapter(folder / "inputs" / "train" / "adapter", LAYERS, LINEARS, 0.02)
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    spec = base_spec("file:///model#sha256=0").model_copy(
        update={"profile": Profile.model_validate({"merge": {"max_shard_bytes": 100_000_000}})}
    )
    context = StageContext(spec, folder / "inputs", folder / "output", folder / "scratch")
    return context, run(context)


def test_reports_known_metrics(stage: tuple[StageContext, Metrics]) -> None:
    _, metrics = stage
    assert metrics.keys() <= METRICS.keys()
    assert (metrics["merged_tensors"], metrics["copied_tensors"]) == (7 * LAYERS, 2 * LAYERS + 2)


def test_the_second_reader_agrees(stage: tuple[StageContext, Metrics]) -> None:
    context, _ = stage
    proof = prove_merge(context.inputs / "base", context.inputs / "train" / "adapter", context.output)
    assert (proof.checked, proof.failures, proof.unchanged) == (9 * LAYERS + 2, [], [])


@pytest.mark.slow
def test_equals_pefts_merge(stage: tuple[StageContext, Metrics]) -> None:
    """Of 134,515,008 elements a hundred or so may differ where numpy's BLAS adds up in another order than torch's."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    context, _ = stage
    base = AutoModelForCausalLM.from_pretrained(context.inputs / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, context.inputs / "train" / "adapter").merge_and_unload().state_dict()
    ours = {name: value for path in context.output.glob("*.safetensors") for name, value in load_file(path).items()}
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    total = differing = 0
    for name, value in ours.items():
        other = theirs[name].half()
        total += value.numel()
        apart = value != other
        differing += int(apart.sum())
        unit = torch.exp2(torch.frexp(other[apart].float()).exponent.clamp(min=-13) - 11)
        assert ((value[apart].float() - other[apart].float()).abs() <= unit).all(), name
    print(f"{differing} of {total} elements differ")
    assert total == 134_515_008
    assert differing < 1e-5 * total


def test_transformers_loads_it_with_the_serving_template(stage: tuple[StageContext, Metrics]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    context, _ = stage
    model, report = AutoModelForCausalLM.from_pretrained(context.output, output_loading_info=True)
    assert model.dtype == torch.float16
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (context.output / "model.safetensors.index.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(context.output)
    assert tokenizer.chat_template == TEMPLATE
    assert json.loads((context.output / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    assert (context.output / "tokenizer.json").read_bytes() == (context.inputs / "base" / "tokenizer.json").read_bytes()


def test_needs_no_torch() -> None:
    code = "import sys, halops.stages.merge; print(sorted({'torch', 'transformers', 'boto3'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"

"""Liger's patch, in a process of its own: it changes transformers' classes for good."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

FAMILIES = ("qwen2", "llama", "mistral", "phi3", "qwen3", "gemma3_text")
PROGRAM = """
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM
from halops.train import liger
from halops.errors import StageError
small = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, pad_token_id=0)
def model(family):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **small))
found = {}
try:
    liger.check(model("qwen2"))
except StageError as error:
    found["unpatched"] = error.what
found["cohere"] = liger.apply("cohere")
for family in sys.argv[1:]:
    applied, made = liger.apply(family), model(family)
    found[family] = [applied, type(made).forward.__module__, liger.check(made)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *FAMILIES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_patch_is_there_and_leaves_the_forward_pass_alone(family: str, found: dict[str, Any]) -> None:
    applied, forward, counts = found[family]
    assert applied
    assert forward.startswith("transformers.models.")
    assert sum(count for name, count in counts.items() if "RMSNorm" in name) >= 5
    assert sum(count for name, count in counts.items() if "MLP" in name) == 2


@pytest.mark.slow
def test_a_model_that_it_missed_is_refused(found: dict[str, Any]) -> None:
    assert found["unpatched"].startswith("Liger's kernels are not in place: Qwen2RMSNorm of the model")


@pytest.mark.slow
def test_a_family_without_kernels_is_no_error(found: dict[str, Any]) -> None:
    assert found["cohere"] is False

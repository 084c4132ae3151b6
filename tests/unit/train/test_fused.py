"""Fused decoder layers against transformers' and PEFT's own, in float64 and in the stage's float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from halops.planner.settings import MemorySettings
from halops.train import attention
from halops.train.fused import parts
from halops.train.fused.install import install, unsupported
from halops.train.fused.projection import Group, Projection
from halops.train.packing import StepCollator
from tests.unit.train.conftest import SMALL
from tests.unit.train.test_packing import FAMILIES, adapted, gradients, relative, rows_of

FUSED = ("qwen2", "llama", "mistral", "phi3")
LENGTHS = [24, 4, 17, 9, 31, 12, 6, 20]


def spends(checkpointed: int, mlp_tokens: int = 1000, keep_attention: bool = False) -> Callable[[int], MemorySettings]:
    """The same for every micro-batch."""
    settings = MemorySettings(
        token_budget=64, checkpointed_layers=checkpointed, mlp_tokens=mlp_tokens, keep_attention=keep_attention
    )
    return lambda tokens: settings


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize(
    ("checkpointed", "mlp_tokens", "keep_attention"),
    [(2, 1000, False), (0, 1000, False), (1, 7, False), (2, 7, True), (0, 7, False)],
)
def test_the_gradient_is_that_of_the_classic_step(
    family: str, checkpointed: int, mlp_tokens: int, keep_attention: bool, tmp_path: Path
) -> None:
    model = adapted(tmp_path / "base", family, **FAMILIES[family])
    rows = rows_of(LENGTHS)
    loss, expected = gradients(model, [StepCollator(1, end_to_end=False)([row]) for row in rows])  # 1 x 8
    assert unsupported(model.config, attention.NAME, torch.float32, torch.float32) is None
    install(model, spends(checkpointed, mlp_tokens, keep_attention))
    again, found = gradients(model, [StepCollator(64)(rows)])
    assert again == pytest.approx(loss, rel=1e-5)
    assert relative(found, expected) < 1e-5
    padded = gradients(model, [StepCollator(64, end_to_end=False)(rows)])[1]
    assert relative(padded, expected) < 1e-5


def test_micro_batches_of_one_step_may_keep_more_or_less(tmp_path: Path) -> None:
    """One of more than 40 tokens has both layers computed again, one of more than 20 a layer, and smaller ones none."""
    model = adapted(tmp_path / "base", "llama")
    rows = rows_of([24, 4, 17, 31, 12])
    _, expected = gradients(model, [StepCollator(1, end_to_end=False)([row]) for row in rows])
    asked = set()

    def by_size(tokens: int) -> MemorySettings:
        asked.add(tokens)
        return spends((tokens > 20) + (tokens > 40))(tokens)

    install(model, by_size)
    steps = [StepCollator(64)(some) for some in (rows[:3], rows[3:4], rows[4:])]
    assert relative(gradients(model, steps)[1], expected) < 1e-5
    assert asked == {45, 31, 12}


def test_a_gradient_goes_from_layer_to_layer_without_a_copy(tmp_path: Path, monkeypatch: Any) -> None:
    model = adapted(tmp_path / "base", "llama")
    install(model, spends(1))
    placed = []
    place = parts.place
    monkeypatch.setattr(parts, "place", lambda x, out: placed.append(x.shape[1]) or place(x, out))
    gradients(model, [StepCollator(128)(rows_of(LENGTHS))])
    assert placed.count(SMALL["hidden_size"]) == 1  # the head's


def test_in_float64_it_is_the_same_to_the_last_digits(tmp_path: Path) -> None:
    model = adapted(tmp_path / "base", "qwen2").double()
    rows = rows_of(LENGTHS)
    _, expected = gradients(model, [StepCollator(64)(rows)])
    install(model, spends(1))
    # transformers computes its norms, and we the loss, in float32 whatever the model.
    assert relative(gradients(model, [StepCollator(64)(rows)])[1], expected) < 1e-6


@pytest.mark.parametrize("nf4", [False, True])
def test_some_projections_without_an_adapter(nf4: bool, tmp_path: Path) -> None:
    from halops.train.adapter import add_adapter, targets
    from halops.train.model import load_model, read_config
    from tests.unit.train.conftest import make_model, make_profile

    lora = {"r": 4, "lora_dropout": 0, "target_modules": ["k_proj", "v_proj", "up_proj"]}
    profile = make_profile(lora=lora, quantization={"load_in_4bit": nf4})
    base = make_model(tmp_path / "base", "llama", hidden_size=64, intermediate_size=128, head_dim=16)
    model = load_model(base, read_config(base), profile, cuda=False)
    wanted = targets(model, profile.lora.target_modules)
    model = add_adapter(model, profile.lora, wanted, torch.float32, None).train()
    rows = rows_of(LENGTHS)
    _, expected = gradients(model, [StepCollator(64)(rows)])
    install(model, spends(2))
    assert relative(gradients(model, [StepCollator(64)(rows)])[1], expected) < 1e-5


def test_dropout_is_the_same_in_both_passes(tmp_path: Path) -> None:
    """The gradient of a function with these masks: compared with numerical differences in float64."""
    model = adapted(tmp_path / "base", "llama").double()
    for layer in model.modules():
        if hasattr(layer, "lora_dropout"):
            layer.lora_dropout["default"] = torch.nn.Dropout(0.3)
    install(model, spends(1, 13))
    step = StepCollator(64)(rows_of([24, 17]))

    def run() -> tuple[float, dict[str, torch.Tensor]]:
        torch.manual_seed(11)
        return gradients(model, [step])

    loss, found = run()
    torch.manual_seed(12)
    assert gradients(model, [step])[0] != loss  # other masks
    assert run()[0] == loss
    for name in ("layers.0.self_attn.k_proj.lora_A", "layers.1.mlp.down_proj.lora_A", "layers.0.mlp.gate_proj.lora_B"):
        full, weight = next((key, item) for key, item in model.named_parameters() if name in key)
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            weight.data += sign * 1e-2 * direction
            losses.append(run()[0])
            weight.data -= sign * 1e-2 * direction
        slope = (losses[0] - losses[1]) / 2e-2
        assert slope == pytest.approx(float((found[full] * direction).sum()), rel=2e-2, abs=1e-6)


def test_what_adapters_made_of_their_inputs_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = adapted(tmp_path / "base", "qwen2"), counted(monkeypatch, "adapt")
    layers = install(model, spends(1, 40))
    gradients(model, [StepCollator(64)(rows_of([30, 30]))])
    assert len(calls) == len(layers) * 6  # attention's two groups, and the MLP's two for each of its two chunks


@pytest.mark.parametrize("checkpointed", [0, 2])
def test_weights_are_dequantized_once_for_each_direction(
    checkpointed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = adapted(tmp_path / "base", "qwen2"), counted(monkeypatch, "write")
    layers = install(model, spends(checkpointed))
    gradients(model, [StepCollator(64)(rows_of([30, 30]))])
    assert calls == [*(group for layer in layers for group in layer.groups),
                     *(group for layer in reversed(layers) for group in layer.groups)]  # fmt: skip


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Group]:
    """Groups whose method of that name was called, in order."""
    calls, method = [], getattr(Group, name)

    def called(self: Group, *given: Any) -> Any:
        calls.append(self)
        return method(self, *given)

    monkeypatch.setattr(Group, name, called)
    return calls


def test_a_resident_base_follows_the_adapter(tmp_path: Path, monkeypatch: Any) -> None:
    """Written once a micro-batch: the backward pass finds what the forward pass left."""
    model, calls = adapted(tmp_path / "base", "qwen2"), counted(monkeypatch, "write")
    rows = rows_of(LENGTHS)
    layers = install(model, spends(2), resident=True)
    gradients(model, [StepCollator(128)(rows)])
    assert len(calls) == len(layers) * 4
    for name, item in model.named_parameters():
        if "lora_" in name:
            item.data *= 1.5
    _, found = gradients(model, [StepCollator(64)(rows)])
    fresh = adapted(tmp_path / "again", "qwen2")
    for name, item in fresh.named_parameters():
        if "lora_" in name:
            item.data *= 1.5
    _, expected = gradients(fresh, [StepCollator(64)(rows)])
    assert relative(found, expected) < 1e-5


def test_nf4_weights_are_dequantized_as_bitsandbytes_does(tmp_path: Path) -> None:
    from halops.sections import LINEARS
    from halops.train.adapter import add_adapter, targets
    from halops.train.model import load_model, read_config
    from tests.unit.train.conftest import make_model, make_profile

    profile = make_profile(lora={"r": 4, "lora_dropout": 0}, quantization={"load_in_4bit": True})
    base = make_model(tmp_path / "base", "qwen2", hidden_size=64, intermediate_size=128, head_dim=16)
    model = load_model(base, read_config(base), profile, cuda=False)
    model = add_adapter(model, profile.lora, targets(model, LINEARS), torch.float32, None).train()
    rows = rows_of(LENGTHS)
    _, expected = gradients(model, [StepCollator(64)(rows)])
    install(model, spends(2))
    assert relative(gradients(model, [StepCollator(64)(rows)])[1], expected) < 1e-5


@pytest.mark.parametrize(
    ("family", "says"), [("qwen3", "other layers"), ("gemma3_text", "other layers"), ("granite", "other layers")]
)
def test_other_families_are_left_alone(family: str, says: str) -> None:
    config = AutoConfig.for_model(family)
    assert says in str(unsupported(config, attention.NAME, torch.float32, torch.float32))


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("llama", {"hidden_act": "gelu"}, "SwiGLU"),
        ("llama", {"attention_bias": True}, "bias"),
        ("mistral", {"attention_dropout": 0.1}, "dropout"),
        ("phi3", {"partial_rotary_factor": 0.5}, "rotates a part"),
    ],
)
def test_what_the_fused_layers_do_not_compute_is_refused(family: str, changes: dict[str, Any], says: str) -> None:
    config = AutoConfig.for_model(family, **SMALL | changes)
    assert says in str(unsupported(config, attention.NAME, torch.float32, torch.float32))
    assert "window" in str(unsupported(AutoConfig.for_model(family), "sdpa", torch.float32, torch.float32))
    plain = AutoConfig.for_model(family)
    assert "dtype" in str(unsupported(plain, attention.NAME, torch.float16, torch.float32))


def test_evaluation_goes_through_the_family_s_own_layers(tmp_path: Path, monkeypatch: Any) -> None:
    model = adapted(tmp_path / "base", "qwen2")
    step = StepCollator(64)(rows_of([24, 17]))["micro_batches"][0]
    model.eval()
    with torch.no_grad():
        expected = model(**step).loss.item()
        install(model, spends(2))
        assert model(**step).loss.item() == expected


@pytest.mark.parametrize("ranks", [(16,), (16, 16, 16), (4,), (16, 4)])
def test_every_element_of_the_buffer_is_written(ranks: tuple[int, ...]) -> None:
    """What memory held before must not come through: it is not a number here."""
    torch.manual_seed(0)
    projections = [
        Projection(torch.randn(8, 12), None, 8, 12, torch.randn(rank, 12), torch.randn(8, rank), 2.0) for rank in ranks
    ]
    group, x = Group(projections), torch.randn(5, 12)
    group._buffer.fill_(float("nan"))
    given = torch.full((5, 12 + group.extra), float("nan"))
    given[:, :12] = x
    group.write()
    group.adapt(given[:, :12], None, given[:, 12:])
    expected = torch.cat([x @ one.weight.T + 2 * (x @ one.a.T) @ one.b.T for one in projections], dim=1)
    torch.testing.assert_close(group.forward(given), expected, rtol=1e-5, atol=1e-4)
    assert not group._buffer[: group.rows].isnan().any()
    assert not group._buffer[:, :12].isnan().any()

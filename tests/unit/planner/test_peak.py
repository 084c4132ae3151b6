"""The planner's bytes against a ledger of what the real layers hold, at Qwen2.5-7B's size on the meta device."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from halops.parameters import linear_parameters, lora_parameters
from halops.planner.micro_batch import for_micro_batch
from halops.planner.peak import GATED_SUMS, buffer_bytes, host_bytes, kept_bytes, layer_bytes, loss_bytes, peak, widths
from halops.planner.settings import MemorySettings
from halops.profile import load_profile
from halops.sections import Dimensions
from halops.train.fused.away import Away, Waiting
from halops.train.fused.install import Buffers
from halops.train.fused.layer import decoder_layer
from halops.train.fused.parts import Layer, Rows
from halops.train.fused.projection import Group, Projection
from halops.train.loss import chunked_loss
from halops.units import GIB
from tests.unit.planner.ledger import Ledger

QWEN = Dimensions()
RTX8 = load_profile("rtx8")
TRAINABLE = lora_parameters(QWEN, RTX8.lora)


def tensor(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def projection(rows: int, columns: int) -> Projection:
    adapter = (torch.nn.Parameter(tensor(16, columns)), torch.nn.Parameter(tensor(rows, 16)))
    return Projection(tensor(rows, columns), None, rows, columns, *adapter, 2.0, 0.05)


def layers(settings: MemorySettings, away: Away | None = None) -> list[Layer]:
    hidden, inner, copy = QWEN.hidden_size, QWEN.intermediate_size, settings.dequantized_base
    buffers = Buffers(dict)

    def group(kind: str, columns: int, *rows: int) -> Group:
        return Group([projection(count, columns) for count in rows], copy, None, buffers[kind])

    return [
        Layer(
            qkv=group("qkv", hidden, hidden, 512, 512), out=group("out", hidden, hidden),
            gate_up=group("gate_up", hidden, inner, inner), down=group("down", inner, hidden),
            first_norm=tensor(hidden), second_norm=tensor(hidden), eps=1e-6, heads=28, kv_heads=4, head_dim=128,
            scaling=0.1, index=index, spends=lambda _: settings, away=away,
        )
        for index in range(QWEN.num_hidden_layers)
    ]  # fmt: skip


class Elsewhere(Away):
    """As ever, but without host memory: `meta` has no bytes to copy. Counts those that left, by layer."""

    def __init__(self, tokens: int) -> None:
        super().__init__(QWEN.num_hidden_layers, tokens)
        self.left = dict[int, int]()

    def _make_room(self, waiting: Waiting, size: int, tokens: int, cuda: bool) -> None:
        self.left[waiting.index] = size

    def _on_host(self, waiting: Waiting) -> list[torch.Tensor]:
        return []

    def _copy(self, sources: Any, targets: Any) -> None:
        pass


def measured(settings: MemorySettings, dropping: bool = False) -> tuple[int, int, dict[str, int]]:
    """Bytes kept after the forward pass, at the peak, and those at the peak by dtype."""
    tokens = settings.token_budget
    away = Elsewhere(tokens) if settings.offload_activations else None
    model = layers(settings, away)
    rows = Rows(torch.empty(2, dtype=torch.int32, device="meta"), tokens, tensor(tokens, 128), tensor(tokens, 128))
    gc.collect()
    with Ledger() as ledger:
        hidden = tensor(tokens, QWEN.hidden_size)
        for layer in model:
            hidden = decoder_layer(hidden, layer, rows, dropping)
        kept = ledger.live
        assert not away or sum(away.left.values()) == pytest.approx(host_bytes(RTX8, QWEN, settings), rel=1e-3)
        hidden.backward(torch.empty_like(hidden))
    return kept, ledger.peak, ledger.at_peak


@pytest.mark.parametrize(
    ("tokens", "checkpointed", "inner", "more"),
    [
        (1024, 28, 4096, {}), (4096, 28, 4096, {}), (8192, 28, 2048, {}), (16384, 28, 4096, {}), (4096, 14, 4096, {}),
        (8192, 0, 4096, {"dequantized_base": True}), (4096, 28, 2048, {"keep_attention": True}),
        (4096, 20, 2048, {"keep_attention": True}), (8192, 28, 2048, {"offload_activations": True}),
        (8192, 28, 2048, {"offload_activations": True, "keep_attention": True}),
        (2048, 0, 2048, {"offload_activations": True}), (2048, 14, 1024, {"offload_activations": True}),
        (8192, 17, 8192, {"offload_activations": True}),
        (8192, 21, 8192, {"offload_activations": True, "keep_attention": True}),
    ],
)  # fmt: skip
def test_the_formula_is_what_the_layers_hold(tokens: int, checkpointed: int, inner: int, more: dict[str, bool]) -> None:
    settings = MemorySettings(token_budget=tokens, checkpointed_layers=checkpointed, mlp_tokens=inner, **more)
    kept, most, by_dtype = measured(settings)
    wide = widths(QWEN, 16, settings.dequantized_base)
    # Seen by the ledger as soon as a part of it is looked at.
    copied = peak(RTX8, QWEN, settings).copy_ + buffer_bytes(wide, settings, 2)
    counted = kept_bytes(QWEN, wide, settings, 2) + layer_bytes(QWEN, wide, settings, 2, TRAINABLE)
    if settings.offload_activations:
        # Each of their backward passes takes as much, and the last finds gradients of the others, and that which
        # `measured` began with.
        others = (QWEN.num_hidden_layers - checkpointed or QWEN.num_hidden_layers) / QWEN.num_hidden_layers
        counted += round(peak(RTX8, QWEN, settings).gradients * others) + tokens * QWEN.hidden_size * 2
    else:
        assert kept - copied == pytest.approx(kept_bytes(QWEN, wide, settings, 2), rel=0.01)
    assert most - copied == pytest.approx(counted, rel=0.06)
    # Sums of one layer's adapter gradients, the log-sum-exp of the scores, flash attention's dq, and what the MLP's
    # adapters sum up in parts: nothing else is fp32.
    whole = QWEN.num_hidden_layers - (0 if settings.keep_attention else checkpointed)
    scores = 4 * QWEN.num_attention_heads * tokens * (whole + 1)
    sums = 4 * TRAINABLE // QWEN.num_hidden_layers + 4 * GATED_SUMS * QWEN.intermediate_size
    allowed = sums + scores + 4 * tokens * QWEN.hidden_size
    assert by_dtype.get("float32", 0) <= 1.01 * allowed


@pytest.mark.parametrize("tokens", [7900, 5000, 3000, 1000])
@pytest.mark.parametrize("whole", [(8192, 28, 4096), (8192, 14, 8192)])
def test_a_small_micro_batch_stays_within_the_peak_of_a_whole_one(whole: tuple[int, int, int], tokens: int) -> None:
    budget, checkpointed, inner = whole
    planned = MemorySettings(token_budget=budget, checkpointed_layers=checkpointed, mlp_tokens=inner)
    small = for_micro_batch(RTX8, QWEN, planned, tokens)
    assert measured(small)[1] <= 1.01 * measured(planned)[1]


@pytest.mark.parametrize("checkpointed", [28, 14])
def test_dropout_takes_no_memory(checkpointed: int) -> None:
    settings = MemorySettings(token_budget=4096, checkpointed_layers=checkpointed)
    assert measured(settings, dropping=True)[1] <= 1.01 * measured(settings)[1]


def test_a_copy_of_the_base_is_counted_as_it_is_made() -> None:
    settings = MemorySettings(token_budget=1024, checkpointed_layers=28, dequantized_base=True)
    with Ledger() as ledger:
        model = layers(settings)
    adapters = sum(item.numel() * 2 for layer in model for item in layer.adapters)
    weights = linear_parameters(QWEN) * 2
    copied = ledger.live - adapters - weights - 2 * 28 * QWEN.hidden_size * 2
    assert copied == peak(RTX8, QWEN, settings).copy_


def test_the_head_s_bytes() -> None:
    tokens = 4096
    hidden = tensor(1, tokens, QWEN.hidden_size).requires_grad_()
    trained = torch.empty(tokens - 1, dtype=torch.int64, device="meta")
    labels = torch.empty(1, tokens, dtype=torch.int64, device="meta")
    head = tensor(QWEN.vocab_size, QWEN.hidden_size)
    with Ledger() as ledger:
        loss = chunked_loss(hidden, head, None, labels, 1.0, trained=trained, limit_bytes=320 * 2**20)
        loss.backward()
    settings = MemorySettings(token_budget=tokens, checkpointed_layers=28)
    # On `meta` the reference runs, which has a copy of each chunk in fp32; the kernel has none.
    assert loss_bytes(QWEN, settings, 2) <= ledger.peak * 1.5


def test_the_floor_that_was_measured() -> None:
    """Measured: 4.24 GiB of base and adapter with the embedding on the host."""
    settings = MemorySettings(token_budget=1024, checkpointed_layers=28, embedding_on_host=True)
    made = peak(RTX8, QWEN, settings)
    assert (made.base + made.adapter) / GIB == pytest.approx(4.24, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "gib"),
    [
        # Measured on an H200 with these settings: `python -m bench.train --cells 1024,4096`, see docs/performance.md.
        (MemorySettings(token_budget=8192, checkpointed_layers=28, embedding_on_host=True, mlp_tokens=2048), 6.94),
        (MemorySettings(token_budget=8192, checkpointed_layers=28, embedding_on_host=True, mlp_tokens=2048), 7.02),
        # Measured with a plain try of the same parts: NF4, embedding on the host, one function a projection.
        (MemorySettings(token_budget=4096, checkpointed_layers=28, embedding_on_host=True), 6.37),
        (MemorySettings(token_budget=4096, checkpointed_layers=28, embedding_on_host=True, offload_activations=True),
         5.62),
    ],
)  # fmt: skip
def test_measured_peaks(settings: MemorySettings, gib: float) -> None:
    assert peak(RTX8, QWEN, settings).allocated / GIB == pytest.approx(gib, rel=0.07)

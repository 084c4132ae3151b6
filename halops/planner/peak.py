"""Peak memory of training with fused decoder layers (halops.train.fused), counted tensor by tensor.

A test runs the real layers on the `meta` device with a ledger of live bytes and compares. What isn't a tensor of ours
(cuBLAS workspaces, the optimizer's buffers) is FIXED_BYTES of `halops.memory`.
"""

from __future__ import annotations

from halops.artifact import Frozen
from halops.memory import FIXED_BYTES, adapter_element_bytes, base_bytes, element_bytes, optimizer_bytes
from halops.parameters import (
    adapter_room,
    embedding_parameters,
    layer_matrices,
    lora_parameters,
    room_beside_inputs,
)
from halops.planner.settings import MemorySettings
from halops.profile import Profile
from halops.sections import Dimensions
from halops.units import MIB

GATED_SUMS = 3 * 128  # columns of fp32 as wide as the MLP, as in halops.train.fused.gated
LOSS_CHUNK_BYTES = 320 * MIB  # of logits, as in halops.train.loss


class Peak(Frozen):
    """Where training's memory goes at its peak, in bytes. `paged` may live on the host and isn't counted."""

    base: int
    copy_: int  # of the dequantized base
    adapter: int
    gradients: int
    optimizer: int
    paged: int
    kept: int
    workspace: int

    @property
    def allocated(self) -> int:
        """What `torch.cuda.max_memory_allocated` will show."""
        parts = self.base + self.copy_ + self.adapter + self.gradients + self.optimizer
        return parts + self.kept + self.workspace


class Widths(Frozen):
    """Columns of a decoder layer's tensors, and elements of its buffers of weights."""

    hidden: int
    inner: int
    attention: int
    qkv: int
    extra: int  # room for an adapter's ranks, of the widest group
    behind: int  # room behind gate and up
    seen: int  # what the adapters make of their inputs
    buffers: int


def widths(dims: Dimensions, rank: int, dequantized_base: bool) -> Widths:
    """Of a decoder with adapters of this rank on every projection."""
    q, k, v, o, gate, up, down = layer_matrices(dims)

    def padded(count: int) -> int:
        return adapter_room(count * rank, dequantized_base)

    def buffer(rows: int, columns: int, count: int) -> int:
        return (rows + padded(count)) * (columns + padded(count))

    qkv = q.rows + k.rows + v.rows
    return Widths(
        hidden=dims.hidden_size,
        inner=dims.intermediate_size,
        attention=o.columns,
        qkv=qkv,
        extra=padded(3),
        behind=0 if room_beside_inputs(gate.rows + up.rows, gate.columns) else padded(2),
        seen=padded(3) + padded(1) + padded(2) + padded(1),
        buffers=buffer(qkv, q.columns, 3)
        + buffer(o.rows, o.columns, 1)
        + buffer(gate.rows + up.rows, gate.columns, 2)
        + buffer(down.rows, down.columns, 1),
    )


def peak(profile: Profile, dims: Dimensions, settings: MemorySettings) -> Peak:
    """What training under `profile` takes on its GPU when it spends memory like this."""
    element, adapter = element_bytes(profile), adapter_element_bytes(profile)
    trainable = lora_parameters(dims, profile.lora)
    states, paged = optimizer_bytes(profile.training.optim, trainable, adapter)
    wide = widths(dims, profile.lora.r, settings.dequantized_base)
    base = base_bytes(dims, profile.quantization, element)
    if settings.embedding_on_host and not dims.tie_word_embeddings:
        base -= embedding_parameters(dims) // 2 * element
    return Peak(
        base=base,
        copy_=dims.num_hidden_layers * wide.buffers * element if settings.dequantized_base else 0,
        adapter=trainable * adapter,
        gradients=trainable * adapter,
        optimizer=0 if paged else states,
        paged=states if paged else 0,
        kept=kept_bytes(dims, wide, settings, element),
        workspace=FIXED_BYTES
        + buffer_bytes(wide, settings, element)
        + max(
            layer_bytes(dims, wide, settings, element, trainable),
            loss_bytes(dims, settings, element),
        ),
    )


def buffer_bytes(wide: Widths, settings: MemorySettings, element: int) -> int:
    """One layer's weights dequantized, in memory that all layers share, unless each has a copy of its own."""
    return 0 if settings.dequantized_base else wide.buffers * element


def kept_bytes(dims: Dimensions, wide: Widths, settings: MemorySettings, element: int) -> int:
    """What waits on the GPU for the backward pass, of every layer and the head's input.

    Of activations in host memory those of two layers are here: of the one that is computed, and of the one before it,
    which are on their way (halops.train.fused.away).
    """
    kinds = kept_by_layers(dims, wide, settings, element)
    kept = sum(layers * size for layers, size in kinds)
    if settings.offload_activations:
        kept = min(kept, 2 * max(size for layers, size in kinds if layers))
    return kept + settings.token_budget * wide.hidden * element


def kept_by_layers(
    dims: Dimensions, wide: Widths, settings: MemorySettings, element: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What layers keep for the backward pass, wherever it waits: how many are computed again and how many aren't, with
    the bytes that one of them keeps.

    Its input and what its adapters made of theirs; queries, keys and values, attention's output, the residual after it
    and the log-sum-exp of the scores; gate and up.
    """
    tokens = settings.token_budget
    least = tokens * (wide.hidden + wide.seen) * element
    attended = tokens * ((wide.qkv + wide.attention + wide.hidden) * element + 4 * dims.num_attention_heads)
    inner = tokens * (2 * wide.inner + wide.behind) * element
    again = least + attended * settings.keep_attention
    whole = least + attended + inner
    checkpointed = settings.checkpointed_layers
    return (checkpointed, again), (dims.num_hidden_layers - checkpointed, whole)


def kept_bytes_per_token(profile: Profile, dims: Dimensions, settings: MemorySettings) -> tuple[float, float]:
    """What a layer that is computed again keeps, and one that isn't, wherever it waits."""
    wide = widths(dims, profile.lora.r, settings.dequantized_base)
    (_, again), (_, whole) = kept_by_layers(dims, wide, settings, element_bytes(profile))
    return again / settings.token_budget, whole / settings.token_budget


def host_bytes(profile: Profile, dims: Dimensions, settings: MemorySettings) -> int:
    """Pinned host memory for activations that wait there: all but the last layer's (halops.train.fused.away)."""
    if not settings.offload_activations:
        return 0
    wide = widths(dims, profile.lora.r, settings.dequantized_base)
    kinds = kept_by_layers(dims, wide, settings, element_bytes(profile))
    last = next(size for layers, size in reversed(kinds) if layers)
    return sum(layers * size for layers, size in kinds) - last


def layer_bytes(dims: Dimensions, wide: Widths, settings: MemorySettings, element: int, trainable: int) -> int:
    """What backward passes take beside all that is kept: those of layers that kept everything come first, and have
    freed it when the first checkpointed layer is computed again."""
    layers, kept = dims.num_hidden_layers, kept_bytes(dims, wide, settings, element)
    left = kept_bytes(dims, wide, settings.model_copy(update={"checkpointed_layers": layers}), element)
    needs = []
    if settings.checkpointed_layers < layers:
        needs.append(kept + _one_layer(dims, wide, settings, element, trainable, (False, False)))
    if settings.checkpointed_layers:
        again = (not settings.keep_attention, True)
        needs.append(left + _one_layer(dims, wide, settings, element, trainable, again))
    return max(needs) - kept


def _one_layer(
    dims: Dimensions, wide: Widths, settings: MemorySettings, element: int, trainable: int, again: tuple[bool, bool]
) -> int:
    """The larger of a layer's two backward phases, through its MLP and through its attention; `again` says whether
    attention and the MLP are computed again."""
    tokens, part = settings.token_budget, min(settings.token_budget, settings.mlp_tokens)
    attended = tokens * (wide.qkv + wide.attention + wide.hidden) * element if again[0] else 0
    both = 2 * wide.inner if again[1] else 0
    mlp = part * (both + wide.inner + wide.hidden + 3 * wide.extra) * element + 4 * GATED_SUMS * wide.inner
    through = 2 * tokens * wide.hidden * element
    sums = 4 * trainable // dims.num_hidden_layers
    # Flash attention accumulates dq in fp32, and spreads dk and dv over all heads before it adds them up.
    flash = tokens * wide.attention * (4 + 2 * element) + tokens * (wide.qkv + wide.attention) * element
    attention = flash + max(0, tokens * wide.qkv * element - flash // 2)
    return attended + through + sums + max(mlp, attention)


def loss_bytes(dims: Dimensions, settings: MemorySettings, element: int) -> int:
    """The head: hidden states, those of the trained positions, their gradient, and a chunk of logits."""
    tokens = settings.token_budget
    chunk = min(tokens // 2 * dims.vocab_size * element, LOSS_CHUNK_BYTES)
    return chunk + 5 * tokens * dims.hidden_size * element

"""A model of one optimizer step's time, good for an order of alternatives.

Matrix products at the card's delivered rate, weights dequantized twice a micro-batch, the way to host memory, and what
a micro-batch costs by itself.
"""

from __future__ import annotations

import math

from halops.artifact import Frozen
from halops.parameters import head_parameters, layer_matrices, linear_parameters
from halops.planner.micro_batch import for_micro_batch
from halops.planner.peak import kept_bytes_per_token
from halops.planner.settings import MemorySettings
from halops.profile import Profile
from halops.sections import Dimensions
from halops.speed import Device

MICRO_BATCH_SECONDS = 0.03  # the GPU's idle ends
# What the host takes to launch a layer's forward and backward pass, and a checkpointed one's second forward pass: with
# little to compute the GPU waits for it. Measured beside an H200, 1,024 tokens at a time: 0.15 to 0.2 s for 28 layers.
HOST_LAYER_SECONDS, HOST_AGAIN_SECONDS = 0.005, 0.003
HOST_OFFLOAD_SECONDS = 0.001  # assumed: a layer's 6 tensors to host memory and back
HOST_EMBEDDING_COST = 1.005
BACKWARD_ATTENTION = 2.5  # of its forward pass: five products instead of two (Dao, FlashAttention-2, section 4.1)


class Workload(Frozen):
    """One process's optimizer step: rows, tokens of the longest row, and of all rows on average."""

    rows: int
    longest: int
    mean: float

    @property
    def tokens(self) -> float:
        return self.rows * self.mean


def usual_settings(profile: Profile, dims: Dimensions, settings: MemorySettings, work: Workload) -> MemorySettings:
    """As a step's usual micro-batch uses them."""
    return for_micro_batch(profile, dims, settings, min(settings.token_budget, math.ceil(work.tokens)))


def seconds(profile: Profile, dims: Dimensions, settings: MemorySettings, work: Workload, device: Device) -> float:
    """Of one optimizer step."""
    whole = settings.token_budget >= work.rows * work.longest
    micro_batches = 1.0 if whole else max(1.0, work.tokens / settings.token_budget + 0.5)  # the last is rarely full
    usual = usual_settings(profile, dims, settings, work)
    products = work.tokens * token_seconds(profile, dims, usual, work.mean, device)
    if settings.embedding_on_host:
        products *= HOST_EMBEDDING_COST
    weights = 0.0
    if profile.quantization.load_in_4bit and not settings.dequantized_base:
        weights = 2 * 2.5 * linear_parameters(dims) / device.bytes_per_second
    parts = max(1.0, usual.token_budget / usual.mlp_tokens)
    each = HOST_LAYER_SECONDS + HOST_OFFLOAD_SECONDS * settings.offload_activations
    launches = each * dims.num_hidden_layers + HOST_AGAIN_SECONDS * usual.checkpointed_layers
    busy = max(products / micro_batches + weights, launches)
    return micro_batches * (busy + MICRO_BATCH_SECONDS + 1e-4 * parts)


def token_seconds(
    profile: Profile, dims: Dimensions, settings: MemorySettings, row_tokens: float, device: Device
) -> float:
    """What a token's matrix products take, or its activations' way to host memory and back where that is longer.

    A layer waits for its own: no more than two layers' activations are on the GPU.
    """
    rate = device.tflops * 1e12
    moved = kept_bytes_per_token(profile, dims, settings) if settings.offload_activations else (0.0, 0.0)
    counts = (settings.checkpointed_layers, dims.num_hidden_layers - settings.checkpointed_layers)
    layers = sum(
        count * sum(max(each / rate, kept / device.host_bytes_per_second) for each in passes)
        for count, passes, kept in zip(counts, layer_flops(dims, settings, row_tokens), moved, strict=True)
    )
    return layers + 4 * head_parameters(dims) / rate


def layer_flops(dims: Dimensions, settings: MemorySettings, row_tokens: float) -> tuple[tuple[float, float], ...]:
    """Operations for one token, forward and backward, of a layer that is computed again and of one that isn't.

    Backward are the gradient of the activations and, computed again, the forward pass but for the MLP's last product,
    and but for attention if that is kept.

    Args:
        row_tokens: of a row on average; each token attends to half of it.
    """
    *attention, gate, up, _ = matrices = layer_matrices(dims)
    scores = 2 * row_tokens * attention[-1].columns  # queries by keys, and what they weigh by values
    products = 2 * sum(one.size for one in matrices)
    again = 2.0 * (gate.size + up.size)
    if not settings.keep_attention:
        again += 2 * sum(one.size for one in attention) + scores
    backward = products + BACKWARD_ATTENTION * scores
    return (products + scores, backward + again), (products + scores, backward)

"""How long training takes: floating-point operations per token, and what a device delivers of them."""

from __future__ import annotations

from typing import NamedTuple

from halops.parameters import head_parameters, linear_parameters
from halops.profile import Profile
from halops.sections import Dimensions


class Device(NamedTuple):
    """A class of GPU: memory in GiB, delivered TFLOP/s in QLoRA training, where the figure is from; bandwidth, of
    which a part is assumed to be reached; what its way to pinned host memory delivers, in one direction."""

    name: str
    memory_gib: float
    tflops: float
    source: str
    bytes_per_second: float
    host_bytes_per_second: float


# Delivered, not peak: dequantization and the optimizer are in it. Ordered by memory. The way to the host: small cards
# have 8 lanes, at PCIe 3.0's speed in an older board (7.9 GB/s); the others 16, at 4.0's (31.5) up to the A100 and at
# 5.0's from the H100 on, of which an H200 was measured to reach 54.
DEVICES = (
    Device("8 GB card", 8, 20, "assumed: half of an RTX 3070's dense bf16 peak", 0.35e12, 6e9),
    Device("16 GB card", 16, 35, "assumed, between the 8 GB and the 24 GB card", 0.4e12, 6e9),
    Device("24 GB card", 24, 100, "torchtune's Llama-3.1-8B QLoRA on an RTX 4090: 2,413 tokens/s", 0.8e12, 12e9),
    Device("A100", 80, 130, "LLaMA-Factory's Llama-2-7B QLoRA on an A100 40 GB: 2,415 to 3,726 tokens/s", 1.3e12, 20e9),
    Device("H100", 81, 400, "measured: 4 x 4096 tokens at 9,400 tokens/s", 2.5e12, 45e9),
)
# Known by their names alone: of an unknown card's speed their memory says nothing.
NAMED = (Device("H200", 141, 575, "measured: 14,160 to 18,620 tokens/s by what is computed again", 3.5e12, 50e9),)

# One micro-batch can't take less than its kernel launches: 0.45 s for 28 layers on an H100's host, whatever the GPU.
LAUNCH_SECONDS_PER_LAYER = 0.016
# Measured: SmolLM2-135M in fp32, 8 rows of 90 tokens in 3.4 s on two cores, so 212 tokens/s.
CPU_FLOPS_PER_CORE = 57e9


def flops_per_token(dims: Dimensions, checkpointing: bool) -> float:
    """Operations to train an adapter on one token: 2N forward, 2N for the gradient of the activations, and 2N
    again to recompute the forward. The base's own gradient (another 2N) isn't needed. N counts linears and head:
    42.4 GFLOP for Qwen2.5-7B with recomputation, 28.3 without."""
    return (6 if checkpointing else 4) * matmul_parameters(dims)


def matmul_parameters(dims: Dimensions) -> int:
    """Parameters that each token is multiplied with: decoder linears and head."""
    return linear_parameters(dims) + head_parameters(dims)


def device_for(memory_gib: float, name: str = "") -> Device:
    """The device class for a card, by product name if it has one of ours in it, else by memory."""
    for device in (*NAMED, *reversed(DEVICES)):
        if device.name.lower() in name.lower():
            return device
    return next((device for device in DEVICES if memory_gib <= device.memory_gib), DEVICES[-2])


def micro_batch_seconds(profile: Profile, dims: Dimensions, tokens: float, cores: int) -> float:
    """Wall time of forward and backward over `tokens` tokens at once."""
    work = flops_per_token(dims, profile.training.gradient_checkpointing) * tokens
    if not profile.cluster.gpu.count:
        return work / (CPU_FLOPS_PER_CORE * max(cores, 1))
    device = device_for(profile.cluster.gpu.memory_gib)
    return max(work / (device.tflops * 1e12), LAUNCH_SECONDS_PER_LAYER * dims.num_hidden_layers)


def tokens_per_second(profile: Profile, dims: Dimensions, row_tokens: float, cores: int) -> float:
    """Training speed with rows of `row_tokens` tokens, unpacked."""
    tokens = row_tokens * profile.training.per_device_train_batch_size
    return tokens / micro_batch_seconds(profile, dims, tokens, cores)

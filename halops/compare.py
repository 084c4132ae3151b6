"""Five ways to teach a model, side by side, from its real dimensions."""

from __future__ import annotations

from halops.artifact import Frozen
from halops.estimate import ASSUMED_ROW_TOKENS, merged_bytes
from halops.memory import (
    CUDA_CONTEXT,
    FRAGMENTATION,
    activation_bytes,
    adapter_element_bytes,
    element_bytes,
    kv_bytes_per_token,
    optimizer_bytes,
    serving_memory,
    training_memory,
    workspace_bytes,
)
from halops.parameters import lora_parameters, parameters
from halops.profile import Profile
from halops.sections import Dimensions
from halops.speed import device_for, matmul_parameters
from halops.units import GIB

CARDS_GIB = (8, 24, 40, 80)
CARD_USABLE = 0.97  # what the driver leaves of a card's nominal memory
VIRTUAL_TOKENS = 20  # Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning
EXAMPLES = 8  # conversations shown in each request, for in-context learning
# Mixed precision: 16-bit weights and gradients, an fp32 master copy, two fp32 moments (Rajbhandari et al., ZeRO).
MASTER_AND_MOMENTS = 12


class MethodRow(Frozen):
    """One method. Bytes, seconds and tokens; `relative_flops` is the cost of training, QLoRA's being 1.

    `artifact_bytes` is what the method leaves to be stored for each tuned model. `prompt_tokens` and `kv_bytes`
    come on top of every request. `fits` maps a card's GiB to whether the method's work fits it.
    """

    method: str
    trainable_parameters: int
    vram_bytes: int
    optimizer_bytes: int
    artifact_bytes: int
    relative_flops: float
    seconds_per_1000_rows: float
    prompt_tokens: int
    kv_bytes: int
    fits: dict[int, bool]
    words: str


def compare_methods(profile: Profile, dims: Dimensions) -> list[MethodRow]:
    """Full fine-tuning, LoRA, QLoRA, prompt tuning and in-context learning, at the profile's batch and length.

    VRAM is for training, but for in-context learning, which only serves. Times are for one epoch of rows of
    ASSUMED_ROW_TOKENS tokens on the profile's class of card, or on an A100 for a profile without a GPU; launch
    overheads are left out, so that the methods differ by their work alone.
    """
    return [
        _full(profile, dims),
        _lora(profile, dims),
        _qlora(profile, dims),
        _prompt(profile, dims),
        _in_context(profile, dims),
    ]


def fits(vram: int) -> dict[int, bool]:
    """Which cards have that much to give."""
    return {card: vram <= card * GIB * CARD_USABLE for card in CARDS_GIB}


def _row(
    profile: Profile,
    dims: Dimensions,
    method: str,
    trainable: int,
    vram: int,
    optimizer: int,
    artifact: int,
    passes: int,
    words: str,
    prompt_tokens: int = 0,
) -> MethodRow:
    flops = passes * matmul_parameters(dims) * (ASSUMED_ROW_TOKENS + (prompt_tokens if passes else 0))
    memory = profile.cluster.gpu.memory_gib or 40
    return MethodRow(
        method=method,
        trainable_parameters=trainable,
        vram_bytes=vram,
        optimizer_bytes=optimizer,
        artifact_bytes=artifact,
        relative_flops=round(flops / (_qlora_passes(profile) * matmul_parameters(dims) * ASSUMED_ROW_TOKENS), 2),
        seconds_per_1000_rows=1000 * flops / (device_for(memory).tflops * 1e12),
        prompt_tokens=prompt_tokens,
        kv_bytes=prompt_tokens * kv_bytes_per_token(dims),
        fits=fits(vram),
        words=words,
    )


def _on_card(profile: Profile, dims: Dimensions, resident: int, extra_tokens: int = 0) -> int:
    """Memory of a 16-bit base with `resident` bytes of weights, gradients and states, plus activations."""
    training = profile.training
    element = element_bytes(profile)
    tokens = training.per_device_train_batch_size * (training.max_seq_length + extra_tokens)
    kept, live = activation_bytes(dims, tokens, element, training.gradient_checkpointing)
    workspace = workspace_bytes(dims, live, element, False, tokens)
    return round((resident + kept + workspace) * FRAGMENTATION) + CUDA_CONTEXT


def _qlora_passes(profile: Profile) -> int:
    """Multiples of N in one token's training: forward, activations' gradient, and perhaps the forward again."""
    return 6 if profile.training.gradient_checkpointing else 4


def _full(profile: Profile, dims: Dimensions) -> MethodRow:
    count = parameters(dims)
    optimizer = MASTER_AND_MOMENTS * count
    return _row(
        profile, dims, "full fine-tuning", count, _on_card(profile, dims, 4 * count + optimizer), optimizer,
        merged_bytes(dims), _qlora_passes(profile) + 2, "every weight moves; a whole model for each task, most memory",
    )  # fmt: skip


def _lora(profile: Profile, dims: Dimensions) -> MethodRow:
    count, element = lora_parameters(dims, profile.lora), adapter_element_bytes(profile)
    states, paged = optimizer_bytes(profile.training.optim, count, element)
    resident = merged_bytes(dims) + 2 * count * element + (0 if paged else states)
    return _row(
        profile, dims, "LoRA, 16-bit base", count, _on_card(profile, dims, resident), states, 4 * count,
        _qlora_passes(profile), "the adapter alone moves; fastest to train where the base fits",
    )  # fmt: skip


def _qlora(profile: Profile, dims: Dimensions) -> MethodRow:
    quantized = profile.quantization.model_copy(update={"load_in_4bit": True})
    memory = training_memory(profile.model_copy(update={"quantization": quantized}), dims)
    count = lora_parameters(dims, profile.lora)
    return _row(
        profile, dims, "QLoRA, 4-bit base", count, round(memory.allocated * FRAGMENTATION) + CUDA_CONTEXT,
        memory.optimizer + memory.paged, 4 * count, _qlora_passes(profile),
        "the same adapter over a quarter of the base's memory; what HALops trains",
    )  # fmt: skip


def _prompt(profile: Profile, dims: Dimensions) -> MethodRow:
    count = VIRTUAL_TOKENS * dims.hidden_size
    states = 8 * count
    resident = merged_bytes(dims) + 8 * count + states
    vram = _on_card(profile, dims, resident, VIRTUAL_TOKENS)
    words = "steers tone and format; too small to hold new facts"
    return _row(
        profile, dims, f"prompt tuning, {VIRTUAL_TOKENS} tokens", count, vram, states, 4 * count,
        _qlora_passes(profile), words, VIRTUAL_TOKENS,
    )  # fmt: skip


def _in_context(profile: Profile, dims: Dimensions) -> MethodRow:
    shown = EXAMPLES * ASSUMED_ROW_TOKENS
    serving = profile.serving.model_copy(update={"ctx_size": profile.serving.ctx_size + shown})
    vram = serving_memory(dims, serving, on_gpu=True).needed
    return _row(
        profile, dims, f"in-context, {EXAMPLES} examples", 0, vram, 0, 0, 0,
        "nothing to train; every request pays for its examples again", shown,
    )  # fmt: skip

"""Chooses how a training spends the memory of its card: the fastest settings whose predicted peak fits.

What the profile sets itself is taken as it is. Speed is a model, good for an order of alternatives: matrix products at
the card's delivered rate, weights dequantized twice a micro-batch, and what a micro-batch costs by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from halops.artifact import Frozen
from halops.errors import ConfigError
from halops.memory import CUDA_CONTEXT, training_memory
from halops.parameters import head_parameters, layer_matrices, linear_parameters
from halops.planner.peak import Peak, host_bytes, kept_bytes_per_token, peak
from halops.planner.settings import MemorySettings
from halops.profile import Profile
from halops.sections import Dimensions
from halops.speed import Device, device_for
from halops.units import GIB, human_bytes

# The allocator's reserve over what is allocated, with expandable segments, and room for what the prediction misses.
HEADROOM = 1.05
CARD_USABLE = 0.97  # what the driver leaves of a card's nominal memory
MLP_TOKENS = (32768, 16384, 8192, 4096, 2048, 1024)
MICRO_BATCH_SECONDS = 0.03  # the GPU's idle ends
# What the host takes to launch a layer's forward and backward pass, and a checkpointed one's second forward pass: with
# little to compute the GPU waits for it. Measured beside an H200, 1,024 tokens at a time: 0.15 to 0.2 s for 28 layers.
HOST_LAYER_SECONDS, HOST_AGAIN_SECONDS = 0.005, 0.003
HOST_BYTES_PER_SECOND = 10e9  # to the host or back, pinned; half of what PCIe 4.0 x16 has
OFFLOAD_COST, HOST_EMBEDDING_COST = 1.03, 1.005


class Workload(Frozen):
    """One process's optimizer step: rows, tokens of the longest row, and of all rows on average."""

    rows: int
    longest: int
    mean: float

    @property
    def tokens(self) -> float:
        return self.rows * self.mean


class Plan(Frozen):
    """What was chosen, the peak that it should have, and what there is."""

    settings: MemorySettings
    peak: Peak
    available: int

    def __str__(self) -> str:
        chosen = self.settings
        said = [f"{chosen.token_budget:,} tokens at a time", f"{chosen.checkpointed_layers} layers checkpointed"]
        said += ["their attention kept"] * chosen.keep_attention
        said += ["base dequantized once"] * chosen.dequantized_base
        said += ["activations in host memory"] * chosen.offload_activations
        said += ["embedding in host memory"] * chosen.embedding_on_host
        return f"{', '.join(said)}: {self.peak.allocated / GIB:.2f} GiB of {self.available / GIB:.1f} expected"


class Spending(Frozen):
    """What an estimate says of training on a profile's own card; `least` bytes must be free for it to run at all, and
    activations take `host` bytes of host memory."""

    words: str
    seconds: float  # of an optimizer step
    least: int
    host: int


def plan_for(profile: Profile, dims: Dimensions, work: Workload) -> Spending | None:
    """The plan for the card that the profile names, None without one or where layers aren't fused."""
    training = profile.training
    if not profile.cluster.gpu.count or training.fp16 or training.fused_layers is False:
        return None
    available = available_on(profile)
    smallest = least_plan(profile, dims, available, work)
    try:
        plan, words = choose(profile, dims, available, work), ""
    except ConfigError:
        plan, words = smallest, "does not fit: "
    time = seconds(profile, dims, plan.settings, work, device_for(profile.cluster.gpu.memory_gib))
    least = round(smallest.peak.allocated * HEADROOM) + CUDA_CONTEXT
    return Spending(words=f"{words}{plan}", seconds=time, least=least, host=host_bytes(profile, dims, plan.settings))


def available_on(profile: Profile) -> int:
    """What a card of the profile's size has for tensors."""
    return round(profile.cluster.gpu.memory_gib * GIB * CARD_USABLE) - CUDA_CONTEXT


def choose(profile: Profile, dims: Dimensions, available: int, work: Workload, card: str = "") -> Plan:
    """The fastest settings that fit into `available` bytes.

    Args:
        card: the GPU's product name where it is known; else its memory stands for it.

    Raises ConfigError with what is missing where none do.
    """
    fitting = [plan for plan in _plans(profile, dims, available, work) if plan.peak.allocated * HEADROOM <= available]
    if fitting:
        device = device_for(max(profile.cluster.gpu.memory_gib, available / GIB), card)
        return min(fitting, key=lambda plan: seconds(profile, dims, plan.settings, work, device))
    least = least_plan(profile, dims, available, work)
    raise ConfigError(
        f"training doesn't fit: with everything moved out that can be, it takes {human_bytes(least.peak.allocated)} at "
        f"its peak, and {human_bytes(round(available / HEADROOM))} of the card can be used",
        [f"training.max_seq_length: rows of up to {work.longest} tokens, one at a time"],
        remedy="shorter rows (--set training.max_seq_length=N), a smaller model, or a card with more memory",
    )


def choose_plain(profile: Profile, dims: Dimensions, available: int, work: Workload) -> MemorySettings:
    """For layers that aren't fused: all of them checkpointed, or none as the profile says, and as many tokens at once
    as `halops.memory` lets fit; one row where nothing does, for the ladder to go on from."""
    layers = dims.num_hidden_layers if profile.training.gradient_checkpointing else 0
    found = budgets(profile.training.token_budget, work)
    for budget in found:
        one = {"per_device_train_batch_size": 1, "max_seq_length": budget}
        tried = profile.model_copy(update={"training": profile.training.model_copy(update=one)})
        if training_memory(tried, dims).allocated * HEADROOM <= available:
            return MemorySettings(token_budget=budget, checkpointed_layers=layers)
    return MemorySettings(token_budget=found[-1], checkpointed_layers=layers)


def least_plan(profile: Profile, dims: Dimensions, available: int, work: Workload) -> Plan:
    """The settings that take least, whether or not they fit."""
    return min(_plans(profile, dims, available, work), key=lambda plan: plan.peak.allocated)


def _plans(profile: Profile, dims: Dimensions, available: int, work: Workload) -> Iterator[Plan]:
    for settings in candidates(profile, dims, work):
        found = [settings]
        # What a layer that isn't checkpointed keeps is too much to travel to the host and back.
        if _layers_open(profile) and not settings.offload_activations:
            found.append(_fewer_checkpointed(profile, dims, settings, available))
        for one in found:
            yield Plan(settings=one, peak=peak(profile, dims, one), available=available)


def _layers_open(profile: Profile) -> bool:
    return profile.training.checkpointed_layers is None and profile.training.gradient_checkpointing


def candidates(profile: Profile, dims: Dimensions, work: Workload) -> Iterator[MemorySettings]:
    """Every combination that the profile leaves open, with as many layers checkpointed as may be."""
    training, quantized = profile.training, profile.quantization.load_in_4bit
    tied = dims.tie_word_embeddings
    most = dims.num_hidden_layers if training.gradient_checkpointing else 0
    layers = most if training.checkpointed_layers is None else min(training.checkpointed_layers, dims.num_hidden_layers)
    for budget, inner, host, offload, copy in product(
        budgets(training.token_budget, work),
        MLP_TOKENS,
        _open(training.embedding_on_host, (False,) if tied else (False, True)),
        _open(training.offload_activations, (False, True)),
        _open(training.dequantized_base, (False, True)) if quantized else (False,),
    ):
        yield MemorySettings(
            token_budget=budget, checkpointed_layers=layers, keep_attention=bool(training.keep_attention),
            offload_activations=offload, embedding_on_host=host, dequantized_base=copy, mlp_tokens=inner,
        )  # fmt: skip


def budgets(wanted: int | None, work: Workload) -> list[int]:
    """A whole step at once, a half, a third ... down to one row; past 16 parts an eighth more at a time."""
    if wanted:
        return [max(wanted, work.longest)]
    found, parts = [], 1
    while parts < work.rows:
        found.append(-(-work.rows * work.longest // parts))
        parts += max(1, parts // 8)
    return [*found, work.longest]


def _open(wanted: bool | None, choices: Iterable[bool]) -> tuple[bool, ...]:
    return tuple(choices) if wanted is None else (wanted,)


def _fewer_checkpointed(profile: Profile, dims: Dimensions, settings: MemorySettings, available: int) -> MemorySettings:
    """The same with as few layers checkpointed as fit."""
    low, high = 0, settings.checkpointed_layers
    while low < high:
        middle = (low + high) // 2
        tried = settings.model_copy(update={"checkpointed_layers": middle})
        if peak(profile, dims, tried).allocated * HEADROOM <= available:
            high = middle
        else:
            low = middle + 1
    return settings.model_copy(update={"checkpointed_layers": low})


def seconds(profile: Profile, dims: Dimensions, settings: MemorySettings, work: Workload, device: Device) -> float:
    """A model of one optimizer step's time."""
    whole = settings.token_budget >= work.rows * work.longest
    micro_batches = 1.0 if whole else max(1.0, work.tokens / settings.token_budget + 0.5)  # the last is rarely full
    passes = [work.tokens * each / (device.tflops * 1e12) for each in flops(dims, settings)]
    if settings.offload_activations:  # there while the forward pass computes, back while the backward pass does
        moved = work.tokens * kept_bytes_per_token(profile, dims, settings) / HOST_BYTES_PER_SECOND
        passes = [max(each * OFFLOAD_COST, moved) for each in passes]
    products = sum(passes)
    if settings.embedding_on_host:
        products *= HOST_EMBEDDING_COST
    weights = 0.0
    if profile.quantization.load_in_4bit and not settings.dequantized_base:
        weights = 2 * 2.5 * linear_parameters(dims) / device.bytes_per_second
    parts = max(1.0, settings.token_budget / settings.mlp_tokens)
    launches = HOST_LAYER_SECONDS * dims.num_hidden_layers + HOST_AGAIN_SECONDS * settings.checkpointed_layers
    busy = max(products / micro_batches + weights, launches)
    return micro_batches * (busy + MICRO_BATCH_SECONDS + 1e-4 * parts)


def flops(dims: Dimensions, settings: MemorySettings) -> tuple[float, float]:
    """Operations for one token: forward; and backward, the gradient of the activations and of each checkpointed layer
    its forward again, but for the MLP's last product, and its attention if that is kept."""
    *attention, gate, up, _ = layer_matrices(dims)
    again = [gate, up] if settings.keep_attention else [*attention, gate, up]
    forward = 2 * (linear_parameters(dims) + head_parameters(dims))
    return forward, forward + 2 * sum(matrix.size for matrix in again) * settings.checkpointed_layers

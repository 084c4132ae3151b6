"""Chooses how a training spends the memory of its card: the fastest settings whose predicted peak fits.

What the profile sets itself is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

from halops.artifact import Frozen
from halops.errors import ConfigError
from halops.memory import CUDA_CONTEXT, training_memory
from halops.planner.micro_batch import fewest_checkpointed
from halops.planner.peak import Peak, host_bytes, peak
from halops.planner.settings import MemorySettings
from halops.planner.step_time import Workload, seconds, usual_settings
from halops.profile import Profile
from halops.sections import Dimensions
from halops.speed import Device, device_for
from halops.units import GIB, human_bytes

# The allocator's reserve over what is allocated, with expandable segments, and room for what the prediction misses.
HEADROOM = 1.05
CARD_USABLE = 0.97  # what the driver leaves of a card's nominal memory
MLP_TOKENS = (32768, 16384, 8192, 4096, 2048, 1024)
# What pinned memory must be worth, in a step's time for each GiB: others may need it, and it takes a second to get.
HOST_GIB_COST = 0.002
HOST_GIB = 4.0  # that a pod asks for at most, where the profile doesn't say: machines with small cards have little
MORE_HOST_GIB = 16  # where a plan looks whether more would help


class Room(NamedTuple):
    """Bytes of GPU memory, and of host memory that activations may wait in."""

    gpu: int
    host: int


class Plan(Frozen):
    """What was chosen, the peak that it should have, and what there is."""

    settings: MemorySettings
    peak: Peak
    available: int
    usual: MemorySettings | None = None  # of a usual micro-batch, where that is smaller than the budget

    def __str__(self) -> str:
        said = self.settings.words(self.usual or self.settings)
        return f"{said}: {self.peak.allocated / GIB:.2f} GiB of {self.available / GIB:.1f} expected"


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
    smallest = least_plan(profile, dims, Room(available, host_limit(profile)), work)
    try:
        plan = choose(profile, dims, available, work)
        words = f"{plan}{_with_more(profile, dims, plan, work)}"
    except ConfigError:
        plan, words = smallest, f"does not fit: {smallest}"
    time = seconds(profile, dims, plan.settings, work, device_for(profile.cluster.gpu.memory_gib))
    least = round(smallest.peak.allocated * HEADROOM) + CUDA_CONTEXT
    host = profile.cluster.gpu.count * host_bytes(profile, dims, plan.settings)
    return Spending(words=words, seconds=time, least=least, host=host)


def _with_more(profile: Profile, dims: Dimensions, plan: Plan, work: Workload) -> str:
    """What more host memory would make of a plan, where nobody said how much there is and that is worth saying."""
    if profile.training.host_memory_gib is not None:
        return ""
    other = choose(profile, dims, plan.available, work, host=MORE_HOST_GIB * GIB).settings
    device = device_for(profile.cluster.gpu.memory_gib)
    less, now = (seconds(profile, dims, one, work, device) for one in (other, plan.settings))
    if less > 0.95 * now:
        return ""
    asked = math.ceil(profile.cluster.gpu.count * host_bytes(profile, dims, other) / GIB)
    return f"; {1 - less / now:.0%} less time with training.host_memory_gib={asked}"


def available_on(profile: Profile) -> int:
    """What a card of the profile's size has for tensors."""
    return round(profile.cluster.gpu.memory_gib * GIB * CARD_USABLE) - CUDA_CONTEXT


def host_limit(profile: Profile, free: int | None = None) -> int:
    """Bytes of host memory that one process's activations may take: each GPU of a machine has one.

    Args:
        free: what there is for them on this machine; None before it is known.
    """
    wanted = profile.training.host_memory_gib
    if wanted is None and free is not None:
        return free
    limit = round((HOST_GIB if wanted is None else wanted) * GIB / max(1, profile.cluster.gpu.count))
    return limit if free is None else min(limit, free)


def choose(
    profile: Profile, dims: Dimensions, available: int, work: Workload, card: str = "", host: int | None = None
) -> Plan:
    """The fastest settings that fit into `available` bytes.

    Args:
        card: the GPU's product name where it is known; else its memory stands for it.
        host: bytes of host memory that are free for activations; None before that is known.

    Raises ConfigError with what is missing where none do.
    """
    room = Room(available, host_limit(profile, host))
    fitting = [plan for plan in _plans(profile, dims, room, work) if plan.peak.allocated * HEADROOM <= available]
    if fitting:
        device = device_for(max(profile.cluster.gpu.memory_gib, available / GIB), card)
        best = min(fitting, key=lambda plan: _cost(profile, dims, plan.settings, room, work, device))
        return best.model_copy(update={"usual": usual_settings(profile, dims, best.settings, work)})
    least = least_plan(profile, dims, room, work)
    raise ConfigError(
        f"training doesn't fit: with everything moved out that can be, it takes {human_bytes(least.peak.allocated)} at "
        f"its peak, and {human_bytes(round(available / HEADROOM))} of the card can be used",
        [f"training.max_seq_length: rows of up to {work.longest} tokens, one at a time"],
        remedy="shorter rows (--set training.max_seq_length=N), a smaller model, or a card with more memory",
    )


def _cost(
    profile: Profile, dims: Dimensions, settings: MemorySettings, room: Room, work: Workload, device: Device
) -> tuple[bool, float]:
    """What takes more of the host than there is comes last."""
    host = host_bytes(profile, dims, settings)
    time = seconds(profile, dims, settings, work, device)
    return host > room.host, time * (1 + HOST_GIB_COST * host / GIB)


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


def least_plan(profile: Profile, dims: Dimensions, room: Room, work: Workload) -> Plan:
    """The settings that take least of the GPU, whether or not they fit."""
    return min(_plans(profile, dims, room, work), key=lambda plan: plan.peak.allocated)


def _plans(profile: Profile, dims: Dimensions, room: Room, work: Workload) -> Iterator[Plan]:
    for settings in candidates(profile, dims, room, work):
        found = [settings]
        if profile.training.checkpointed_layers is None and profile.training.gradient_checkpointing:
            found.append(fewest_checkpointed(settings, lambda tried: _fits(profile, dims, tried, room)))
        for one in found:
            yield Plan(settings=one, peak=peak(profile, dims, one), available=room.gpu)


def candidates(profile: Profile, dims: Dimensions, room: Room, work: Workload) -> Iterator[MemorySettings]:
    """Every combination that the profile leaves open, with as many layers checkpointed as may be."""
    training, quantized = profile.training, profile.quantization.load_in_4bit
    tied = dims.tie_word_embeddings
    most = dims.num_hidden_layers if training.gradient_checkpointing else 0
    layers = most if training.checkpointed_layers is None else min(training.checkpointed_layers, dims.num_hidden_layers)
    for budget, inner, host, offload, keep, copy in product(
        budgets(training.token_budget, work),
        MLP_TOKENS,
        _open(training.embedding_on_host, (False,) if tied else (False, True)),
        _open(training.offload_activations, (False, True)),
        _open(training.keep_attention, (False, True)),
        _open(training.dequantized_base, (False, True)) if quantized else (False,),
    ):
        made = MemorySettings(
            token_budget=budget, checkpointed_layers=layers, keep_attention=keep, offload_activations=offload,
            embedding_on_host=host, dequantized_base=copy, mlp_tokens=inner,
        )  # fmt: skip
        if _sensible(profile, dims, made, room):
            yield made


def _sensible(profile: Profile, dims: Dimensions, made: MemorySettings, room: Room) -> bool:
    """What the profile doesn't ask for must be worth a try: attention is kept in host memory or not at all (on the GPU
    whole layers are), and what waits in host memory has room there. Layers' inputs alone may take more, if nobody says
    how much: long rows fit in no other way."""
    training, fits = profile.training, host_bytes(profile, dims, made) <= room.host
    if made.keep_attention and training.keep_attention is None:
        return made.offload_activations and fits
    inputs_alone = made.checkpointed_layers == dims.num_hidden_layers and not made.keep_attention
    return fits or bool(training.offload_activations) or (inputs_alone and training.host_memory_gib is None)


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


def _fits(profile: Profile, dims: Dimensions, tried: MemorySettings, room: Room) -> bool:
    if host_bytes(profile, dims, tried) > room.host:
        return False
    return peak(profile, dims, tried).allocated * HEADROOM <= room.gpu

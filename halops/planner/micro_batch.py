"""What a micro-batch smaller than the token budget does with the memory that it leaves free.

Rows of many lengths rarely fill the budget, which is there for steps of long ones. What such a micro-batch would leave
of the whole budget's peak saves it launches, since its MLP goes in fewer parts, and then work: fewer of its layers are
computed again. Nothing of that changes what is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from halops.planner.peak import peak
from halops.planner.settings import MemorySettings
from halops.profile import Profile
from halops.sections import Dimensions

SIZES = 32  # of micro-batches that are told apart


def by_size(profile: Profile, dims: Dimensions, settings: MemorySettings) -> Callable[[int], MemorySettings]:
    """`for_micro_batch` for training, which asks at every layer: reckoned once for all sizes up to the next 32nd of the
    budget."""
    step = -(-settings.token_budget // SIZES)
    found = functools.cache(functools.partial(for_micro_batch, profile, dims, settings))

    def spends(tokens: int) -> MemorySettings:
        return found(max(tokens, min(settings.token_budget, -(-tokens // step) * step)))

    return spends


def for_micro_batch(profile: Profile, dims: Dimensions, settings: MemorySettings, tokens: int) -> MemorySettings:
    """The settings as a micro-batch of so many tokens uses them.

    How many layers are checkpointed stays as it is where the profile says so; and where activations wait in host
    memory, whose way there is what the number was chosen by.
    """
    limit = peak(profile, dims, settings).allocated

    def fits(tried: MemorySettings) -> bool:
        return peak(profile, dims, tried).allocated <= limit

    most = min(tokens, settings.mlp_tokens)
    found = settings.model_copy(update={"token_budget": tokens, "mlp_tokens": most})
    for parts in range(1, -(-tokens // most)):
        tried = found.model_copy(update={"mlp_tokens": -(-tokens // parts)})
        if fits(tried):
            found = tried
            break
    fixed = profile.training.checkpointed_layers is not None or settings.offload_activations
    return found if fixed or tokens >= settings.token_budget else fewest_checkpointed(found, fits)


def fewest_checkpointed(settings: MemorySettings, fits: Callable[[MemorySettings], bool]) -> MemorySettings:
    """The same with as few layers checkpointed as fit."""
    low, high = 0, settings.checkpointed_layers
    while low < high:
        middle = (low + high) // 2
        if fits(settings.model_copy(update={"checkpointed_layers": middle})):
            high = middle
        else:
            low = middle + 1
    return settings.model_copy(update={"checkpointed_layers": low})

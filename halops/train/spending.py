"""How this attempt spends memory: planned for what is free, as many rungs down the ladder as the attempt says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from halops.checks.host import available_memory
from halops.memory import ESTIMATE_HEADROOM, train_host_bytes
from halops.planner.choose import choose, choose_plain
from halops.planner.micro_batch import by_size
from halops.planner.peak import peak
from halops.planner.settings import MemorySettings, settings_at
from halops.planner.step_time import Workload
from halops.profile import Profile
from halops.sections import Dimensions
from halops.stages.context import StageContext
from halops.train.arguments import share
from halops.train.fused.install import unsupported
from halops.train.model import attention_for, precision
from halops.train.rows import Rows

CPU_TOKENS = 1024  # of a micro-batch: enough to fill the cores, and little memory


class Spending(NamedTuple):
    """What is tried, whether layers are fused, why not if so, the peak that is expected on a GPU, and the settings as a
    micro-batch of so many tokens uses them."""

    settings: MemorySettings
    fused: bool
    reason: str | None
    predicted: int | None
    spends: Callable[[int], MemorySettings]


def spending(context: StageContext, config: Any, train: Rows, cuda: bool, processes: int) -> Spending:
    """Raises ConfigError where nothing fits, GpuMemoryError past the last rung."""
    training = context.spec.profile.training
    reason = _unfused(context, config, cuda)
    work = workload(context, train, processes)
    dims = dimensions(config)
    planned = _planned(context, dims, work, cuda, reason is None)
    settings = settings_at(planned, work.longest, dims.num_hidden_layers, context.rung, oom_killed=context.oom_killed)
    counted = cuda and reason is None
    predicted = peak(context.spec.profile, dims, settings).allocated if counted else None
    spends = by_size(context.spec.profile, dims, settings)
    return Spending(settings, reason is None, reason if cuda or training.fused_layers else None, predicted, spends)


def dimensions(config: Any) -> Dimensions:
    """Of a loaded model's config, whatever its family."""
    return Dimensions(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None),
        vocab_size=config.vocab_size,
        tie_word_embeddings=bool(config.tie_word_embeddings),
        attention_bias=config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False)),
    )


def workload(context: StageContext, train: Rows, processes: int) -> Workload:
    """Of one process's part of an optimizer step."""
    mean = sum(train.lengths) / len(train)
    return Workload(rows=share(context.spec.profile.training, processes), longest=max(train.lengths), mean=mean)


def _unfused(context: StageContext, config: Any, cuda: bool) -> str | None:
    """Why layers stay as they are; None where they are fused."""
    profile = context.spec.profile
    wanted = profile.training.fused_layers
    if wanted is False or (wanted is None and not cuda):
        return "as the profile says" if wanted is False else "on a CPU that saves nothing"
    dtypes = precision(profile, cuda)
    if profile.quantization.load_in_4bit and dtypes.compute != dtypes.weights:
        return "4-bit weights are computed with in another dtype"
    name = attention_for(config, profile.training.max_seq_length)
    return unsupported(config, name, dtypes.weights, dtypes.adapter)


def _planned(context: StageContext, dims: Dimensions, work: Workload, cuda: bool, fused: bool) -> MemorySettings:
    profile = context.spec.profile
    if cuda and fused:
        plan = choose(profile, dims, free_memory(), work, torch.cuda.get_device_name(), free_host_memory(profile, dims))
        context.progress(f"memory: {plan}")
        return plan.settings
    if cuda:
        return choose_plain(profile, dims, free_memory(), work)
    training = profile.training
    layers = training.checkpointed_layers
    if layers is None or not fused:
        layers = dims.num_hidden_layers if training.gradient_checkpointing else 0
    return MemorySettings(
        token_budget=max(work.longest, training.token_budget or CPU_TOKENS),
        checkpointed_layers=layers,
        keep_attention=bool(fused and training.keep_attention),
        dequantized_base=bool(fused and training.dequantized_base),
    )


def free_host_memory(profile: Profile, dims: Dimensions) -> int | None:
    """Bytes of host memory that this process's activations may wait in; None where the machine doesn't tell.

    A fifth of what there is stays free: in a pod that is what its limit has over the estimate.
    """
    available = available_memory()
    if available is None:
        return None
    left = round(available / ESTIMATE_HEADROOM) - train_host_bytes(profile, dims)
    return max(0, left) // max(1, profile.cluster.gpu.count)


def free_memory() -> int:
    """Bytes that this process may still take of its GPU."""
    free, total = torch.cuda.mem_get_info()
    fraction = getattr(torch.cuda.memory, "get_per_process_memory_fraction", None)
    allowed = fraction() * total - torch.cuda.memory_reserved() if fraction else total
    return int(min(free, allowed))

"""What one attempt at training works with: rows, model, adapter, and a summary of how they came out."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import set_seed

from halops.errors import DataError
from halops.planner.settings import MemorySettings
from halops.stages.context import StageContext
from halops.train import adapter, census, liger, model
from halops.train.arguments import optimizer, rows_per_step
from halops.train.faults import Tried
from halops.train.fused.away import Away
from halops.train.fused.install import install
from halops.train.fused.parts import Layer
from halops.train.host_embedding import move_embedding
from halops.train.isolation import rows_stay_apart
from halops.train.rows import Rows, read_rows
from halops.train.spending import spending
from halops.train.world import ALONE, World

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "liger-kernel")


@dataclass(frozen=True)
class Session:
    """`model` is the base under PEFT; `summary` becomes summary.json."""

    context: StageContext
    settings: MemorySettings
    end_to_end: bool  # whether rows can lie end to end without seeing each other
    layers: list[Layer]  # each one autograd function, with its own checkpointing; none where the family's own stay
    cuda: bool
    model: Any
    dtypes: model.Precision
    train: Rows
    heldout: Rows
    world: World
    summary: dict[str, Any]

    @property
    def fused(self) -> bool:
        """Whether decoder layers are ours."""
        return bool(self.layers)

    def census(self) -> list[census.Held]:
        """Every tensor of the model; on CUDA, raises StageError if one is in a dtype that nobody asked for."""
        tensors = census.held((*self.model.named_parameters(), *self.model.named_buffers()))
        if self.cuda:
            census.check(tensors, name_of(self.dtypes.weights), name_of(self.dtypes.adapter))
        return tensors


def prepare(context: StageContext, world: World = ALONE, tried: Tried | None = None) -> Session:
    """Read the rows, load the base, put the adapter on; check what came out.

    Args:
        tried: is told the memory settings as soon as they are chosen.

    Raises ConfigError, DataError, ModelError, IntegrityError, HostError, StageError, GpuMemoryError.
    """
    profile, base = context.spec.profile, context.inputs / "base"
    cuda = torch.cuda.is_available()
    config = model.read_config(base)
    train, heldout = _read_rows(context, config)
    spent = spending(context, config, train, cuda, world.size)
    settings = spent.settings
    if tried:
        tried.settings = settings
    notes = _notes(context, cuda, world)
    patched = model.apply_liger(config, cuda)
    if cuda and not patched:
        notes.append(f"warning: Liger has no kernels for {config.model_type}; training goes on without them")
    if spent.reason:
        notes.append(f"layers are not fused: {spent.reason}")
    for note in notes:
        context.progress(note)
    context.progress("loading the base")
    loaded = model.load_model(base, config, profile, cuda)
    found = adapter.targets(loaded, profile.lora.target_modules)
    start = context.inputs / "adapter"
    dtypes = model.precision(profile, cuda)
    set_seed(profile.training.seed)  # the adapter's first weights are random
    adapted = adapter.add_adapter(loaded, profile.lora, found, dtypes.adapter, start if start.is_dir() else None)
    if settings.embedding_on_host:
        move_embedding(loaded)
    end_to_end = rows_stay_apart(loaded)
    if not end_to_end:
        notes.append(f"warning: rows can't lie end to end in {type(loaded).__name__}; they are padded to one another")
    summary = {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "dtypes": {name: name_of(dtype) for name, dtype in asdict(dtypes).items()},
        "liger": liger.check(loaded) if patched else {},
        "target_modules": found.mapping,
        "starting_adapter": start.is_dir(),
        "memory": settings.model_dump() | {"rung": context.rung, "predicted_bytes": spent.predicted},
        "fused_layers": spent.fused,
        "end_to_end": end_to_end,
        "processes": world.size,
        "notes": notes,
        "versions": {name: _version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }
    layers = []
    if spent.fused:
        offload = cuda and settings.offload_activations
        away = Away(config.num_hidden_layers, settings.token_budget) if offload else None
        layers = install(adapted, spent.spends, settings.dequantized_base, away)
    session = Session(context, settings, end_to_end, layers, cuda, adapted, dtypes, train, heldout, world, summary)
    summary["census"] = census.summary(session.census())
    return session


def _read_rows(context: StageContext, config: Any) -> tuple[Rows, Rows]:
    data, positions = context.inputs / "data", getattr(config, "max_position_embeddings", None)
    train = read_rows(data / "train.jsonl", config.vocab_size, positions)
    heldout = read_rows(data / "heldout.jsonl", config.vocab_size, positions)
    if not len(train):
        raise DataError("no row to train on", where="train.jsonl")
    return train, heldout


def _notes(context: StageContext, cuda: bool, world: World) -> list[str]:
    """Where this machine or attempt trains otherwise than the profile says."""
    profile, notes = context.spec.profile, []
    if not cuda:
        if profile.cluster.gpu.count:
            notes.append("no CUDA device here: training on the CPU, in float32")
        if (name := optimizer(profile.training, cuda)) != profile.training.optim:
            notes.append(f"{profile.training.optim} needs CUDA: {name} on this CPU")
    if world.size > 1:
        notes.append(f"{world.size} processes share each step of {rows_per_step(profile.training)} rows")
    if context.rung:
        notes.append(f"rung {context.rung} of the out-of-memory ladder: the same rows a step, fewer at a time")
    return notes


def name_of(dtype: torch.dtype) -> str:
    """ "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None

"""A LoRA adapter as PEFT stores it: its pairs of matrices, each with its rank and scale, by target in the base.

Whatever would make `W + scale * B @ A` the wrong formula is refused here, by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halops.errors import IntegrityError, ModelError, NotFoundError
from halops.merge.cast import FLOATS
from halops.merge.tensors import TensorInfo, read_header
from halops.profile import describe

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."  # what PEFT's own wrapping puts before a module's name
REMEDY: Final = "train a plain LoRA (no DoRA, bias none, no modules_to_save), or merge this adapter with peft itself"

# Settings under which a merge by the plain formula would be another model.
REFUSED: Final[dict[str, str]] = {
    "use_dora": "DoRA also scales each row by a trained magnitude",
    "lora_bias": "the adapter has trained biases",
    "fan_in_fan_out": "the base stores its weights transposed",
    "modules_to_save": "whole modules were trained",
    "trainable_token_indices": "single embedding rows were trained",
    "target_parameters": "single parameters, not linear layers, were adapted",
    "layer_replication": "layers are repeated",
    "alora_invocation_tokens": "the adapter is active on a part of the tokens only (aLoRA)",
    "use_qalora": "QA-LoRA pools its inputs",
    "use_bdlora": "BD-LoRA uses block-diagonal matrices",
    "arrow_config": "Arrow routes between several adapters",
    "kasa_config": "KaSA changes the base's weights",
    "monteclora_config": "MonteCLoRA samples its matrices",
}
# Initializations that leave the base as it is; all others train against a changed base (PiSSA, OLoRA, LoftQ, ...).
PLAIN_INITS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
# Settings that don't touch the formula, or that are read below. One that is neither here nor refused, and switched on,
# may be a variant that came after this list: better refused than merged wrongly.
KNOWN: Final = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_rslora", "velora_config",
})  # fmt: skip


class LoraConfig(BaseModel):
    """The part of adapter_config.json that decides the arithmetic; names are PEFT's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    r: int = Field(default=8, gt=0)
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None

    def rank(self, module: str) -> int:
        """The rank of that module's adapter."""
        return _by_pattern(self.rank_pattern or {}, module, self.r)

    def scale(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA (Kalajdzievski 2023)."""
        alpha, rank = _by_pattern(self.alpha_pattern or {}, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


T = TypeVar("T")


def _by_pattern(patterns: Mapping[str, T], module: str, default: T) -> T:
    """The first pattern that matches the module's name, or a dotted suffix of it, decides: as PEFT resolves them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


@dataclass(frozen=True)
class LoraPair:
    """One target: `a` is [rank, in], `b` is [out, rank]; the change is scale * b @ a.

    `weight` is the base's tensor as the adapter's file repeats it: PEFT stores an adapted head so, and on loading
    takes it for the base's.
    """

    a: TensorInfo
    b: TensorInfo
    rank: int
    scale: float
    weight: TensorInfo | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter that the plain formula covers. `pairs` is keyed by the base's tensor name (`....weight`)."""

    folder: Path
    config: LoraConfig
    pairs: dict[str, LoraPair]


def read_adapter(folder: Path) -> Adapter:
    """Config and tensor headers of a PEFT LoRA folder.

    Raises:
        NotFoundError: no config or no weights in the folder.
        ModelError: a kind of adapter that can't be merged (with every reason), or a pickle.
        IntegrityError: damaged files.
    """
    raw = _read_config(folder / CONFIG)
    if (problems := _refusals(raw)) or not (folder / WEIGHTS).is_file():
        if problems:
            raise ModelError("this adapter can't be merged", problems, where=str(folder / CONFIG), remedy=REMEDY)
        raise _no_weights(folder)
    try:
        config = LoraConfig.model_validate(raw)
    except ValidationError as error:
        raise ModelError("invalid adapter config", describe(error, LoraConfig), where=str(folder / CONFIG)) from error
    pairs = _pairs(read_header(folder / WEIGHTS), config, folder)
    return Adapter(folder, config, pairs)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict):
            raise ValueError("not an object")
    except FileNotFoundError as error:
        raise NotFoundError(f"no {CONFIG}", where=str(path.parent), remedy="give an adapter's folder") from error
    except ValueError as error:
        raise IntegrityError(f"not valid JSON: {error}", where=str(path)) from error
    return raw


def _no_weights(folder: Path) -> ModelError | NotFoundError:
    if (folder / "adapter_model.bin").exists():
        return ModelError(
            "the adapter's weights are a pickle, which can run code when it is read",
            where=str(folder / "adapter_model.bin"),
            remedy="save the adapter as safetensors, the default of a current peft",
        )
    return NotFoundError(f"no {WEIGHTS}", where=str(folder), remedy="give an adapter's folder")


def _refusals(raw: Mapping[str, Any]) -> list[str]:
    kind = raw.get("peft_type", "LORA")
    if kind != "LORA":
        return [f"peft_type: {kind} is not LoRA"]
    problems = [f"{key}: {reason}" for key, reason in REFUSED.items() if raw.get(key)]
    if (bias := raw.get("bias", "none")) not in ("none", None):
        problems.append(f"bias: {bias}: the base's biases were trained too")
    if (init := raw.get("init_lora_weights", True)) not in PLAIN_INITS:
        problems.append(f"init_lora_weights: {init}: it was trained against a changed base")
    for key in sorted(raw.keys() - KNOWN - REFUSED.keys()):
        if raw[key] is True or (isinstance(raw[key], dict | list) and raw[key]):
            problems.append(f"{key}: a setting that isn't known here")
    for key in ("rank_pattern", "alpha_pattern"):
        problems += [f"{key}.{pattern}: not a regular expression" for pattern in raw.get(key) or () if _bad(pattern)]
    return problems


def _bad(pattern: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error:
        return True
    return False


def _pairs(tensors: Mapping[str, TensorInfo], config: LoraConfig, folder: Path) -> dict[str, LoraPair]:
    found: dict[str, dict[str, TensorInfo]] = {}
    problems = []
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.(lora_A|lora_B|base_layer)\.weight", name)
        if match and tensor.dtype in FLOATS:
            found.setdefault(match[1], {})[match[2]] = tensor
        else:
            problems.append(f"{name}: {_what_it_is(name, tensor)}")
    pairs = {}
    for module, halves in sorted(found.items()):
        a, b = halves.get("lora_A"), halves.get("lora_B")
        if a is None or b is None:
            problems.append(f"{module}: {'lora_A' if b else 'lora_B'} is missing")
        elif problem := _shape_problem(a, b, config.rank(module)):
            problems.append(f"{module}: {problem}")
        else:
            rank, scale = config.rank(module), config.scale(module)
            pairs[f"{module}.weight"] = LoraPair(a, b, rank, scale, halves.get("base_layer"))
    if problems or not pairs:
        what = "this adapter can't be merged" if problems else "the adapter has no LoRA tensors"
        raise ModelError(what, problems, where=str(folder / WEIGHTS), remedy=REMEDY)
    return pairs


def _shape_problem(a: TensorInfo, b: TensorInfo, rank: int) -> str | None:
    if len(a.shape) != 2 or len(b.shape) != 2:
        return f"lora_A {list(a.shape)} and lora_B {list(b.shape)} are not matrices"
    if (a.shape[0], b.shape[1]) != (rank, rank):
        return f"lora_A {list(a.shape)} and lora_B {list(b.shape)} are not of the config's rank {rank}"
    return None


def _what_it_is(name: str, tensor: TensorInfo) -> str:
    if "lora_magnitude_vector" in name:
        return "DoRA's magnitudes can't be merged"
    if "lora_embedding_" in name:
        return "an adapted embedding can't be merged"
    if name.endswith(".bias"):
        return "a trained bias can't be merged"
    if ".lora_" in name:
        return f"not a LoRA tensor that is known here (dtype {tensor.dtype})"
    return "a whole module that was trained (modules_to_save), not a LoRA tensor"


def resolve_targets(
    adapter: Adapter, base: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> dict[str, TensorInfo]:
    """The base's tensors, with those that the adapter's file brings along in their places.

    Every pair must have a target of its shape; raises ModelError with all that don't.

    Args:
        base: the base's tensors by name.
        config: the base's config.json.
    """
    problems = []
    for name, pair in adapter.pairs.items():
        if problem := _target_problem(name, pair, base, config):
            problems.append(f"{name.removesuffix('.weight')}: {problem}")
    if problems:
        raise ModelError(
            f"{len(problems)} of the adapter's {len(adapter.pairs)} targets don't fit this base",
            problems,
            where=str(adapter.folder),
            remedy="give the base model that the adapter was trained on",
        )
    brought = {name: replace(pair.weight, name=name) for name, pair in adapter.pairs.items() if pair.weight}
    return {**base, **brought}


def _target_problem(name: str, pair: LoraPair, base: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str | None:
    target = base.get(name)
    if name == "lm_head.weight" and (target is None or config.get("tie_word_embeddings")):
        return "the head is tied to the embedding: merging would change both; train without lm_head"
    if target is None:
        return "no such tensor in the base"
    if target.dtype not in FLOATS:
        return f"the base's tensor is {target.dtype}: merge into an unquantized base"
    expected = (pair.b.shape[0], pair.a.shape[1])
    if target.shape != expected or (pair.weight and pair.weight.shape != expected):
        return f"the adapter changes a {list(expected)}, the base has a {list(target.shape)}"
    return None

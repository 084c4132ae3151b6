"""Liger's fused kernels (RMSNorm, RoPE, gated MLP) for the model's family: applied before loading, then asserted."""

from __future__ import annotations

import inspect
from typing import Any

from halops.errors import HostError, StageError


def apply(model_type: str) -> bool:
    """Patch transformers' classes of this family; False if Liger knows none.

    Its cross entropies stay off: the loss is ours (halops.train.head), and has no logits either.
    Raises HostError if Liger isn't installed.
    """
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        raise HostError(
            "liger-kernel is missing", where=str(error), remedy="pip install 'halops[train]' on the GPU machine"
        ) from error
    patch = MODEL_TYPE_TO_APPLY_LIGER_FN.get(model_type)
    if patch is None:
        return False
    known = inspect.signature(patch).parameters
    patch(**{name: False for name in ("cross_entropy", "fused_linear_cross_entropy") if name in known})
    return True


def check(model: Any) -> dict[str, int]:
    """Liger's modules in a loaded model, counted by class.

    Raises StageError if there are none, or if a norm of transformers' own is left among them.
    """
    counts: dict[str, int] = {}
    left = set()
    for module in model.modules():
        kind = type(module)
        if _is_liger(kind) or _is_liger(getattr(module, "forward", None)):
            counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
        elif kind.__name__.endswith("RMSNorm"):
            left.add(kind.__name__)
    if not counts or left:
        raise StageError(
            f"Liger's kernels are not in place: {', '.join(sorted(left)) if left else 'every module'} of the model is "
            "transformers' own",
            remedy="this pair of liger-kernel and transformers doesn't fit: install requirements/train.txt",
        )
    return counts


def _is_liger(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("liger_kernel")

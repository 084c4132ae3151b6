"""What the Trainer does to a whole model at every step, without a walk through its modules.

Qwen2.5-7B under LoRA has thousands. Beside an H200 the GPU stood idle for 8 ms of each step while `train()` went
through them, and for 6 while `zero_grad()` did (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

from torch.nn import Parameter


def shorten_walks(model: Any) -> list[Parameter]:
    """Let `train` and `eval` return at once where the model is in that mode, and `zero_grad` go to what is trained,
    which is returned.

    From here on modes are set on the whole model, and no other parameter begins to be trained.
    """
    walk, parameters = model.train, [item for item in model.parameters() if item.requires_grad]
    known: bool | None = None  # a module may be in another mode than the whole before the first walk

    def train(mode: bool = True) -> Any:
        nonlocal known
        if mode is not known or mode is not model.training:
            walk(mode)
            known = mode
        return model

    def zero_grad(set_to_none: bool = True) -> None:
        for item in parameters:
            if set_to_none:
                item.grad = None
            elif item.grad is not None:
                item.grad.zero_()

    model.train, model.zero_grad = train, zero_grad
    return parameters

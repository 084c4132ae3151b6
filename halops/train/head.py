"""Gives a causal language model a forward pass that returns its loss and makes no logits."""

from __future__ import annotations

import functools
import types
from pathlib import Path
from typing import Any

import torch

from halops.errors import ModelError
from halops.train.loss import chunked_loss

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # nats a token


def logit_transform(config: Any) -> tuple[float, float | None]:
    """Factor and soft cap that a family puts on its logits, from its text config.

    Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`, Gemma 2 and 3 cap by
    `final_logit_softcapping`.
    """
    scale = getattr(config, "logit_scale", None)
    if scale is None and getattr(config, "logits_scaling", None):
        scale = 1 / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    return (1.0 if scale is None else float(scale)), (float(softcap) if softcap else None)


def install_chunked_head(model: Any) -> None:
    """Replace `model.forward`: with labels it returns the loss alone; without them it is the family's own.

    Every path that computes a loss goes through it: training and evaluation, plain and under PEFT.
    Raises ModelError if the head is no plain linear layer or computes something we don't know of.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.weight.dtype not in TOLERANCE:
        raise ModelError(
            f"{type(model).__name__} has no plain linear output layer",
            remedy="take a dense decoder model of another family",
        )
    head.requires_grad_(False)
    scale, softcap = logit_transform(model.config.get_text_config())
    original = model.forward

    @functools.wraps(original)
    def forward(self: Any, input_ids: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        total, trained = kwargs.pop("num_items_in_batch", None), kwargs.pop("trained", None)
        if labels is None:
            return original(input_ids=input_ids, **kwargs)
        from transformers.modeling_outputs import CausalLMOutputWithPast

        given = {key: value for key, value in kwargs.items() if value is not None} | {"use_cache": False}
        hidden = self.base_model(input_ids=input_ids, **given).last_hidden_state
        loss = chunked_loss(
            hidden, head.weight, head.bias, labels, total, trained=trained, scale=scale, softcap=softcap
        )
        return CausalLMOutputWithPast(loss=loss)

    model.forward = types.MethodType(forward, model)
    model.accepts_loss_kwargs = True  # the Trainer then hands over the token count of the whole step
    _compare(model, original)


def _compare(model: Any, original: Any) -> None:
    """Compare with the family's own logits on eight tokens: an unknown transform of the logits must not pass."""
    head = model.get_output_embeddings()
    ids = (torch.arange(8, device=head.weight.device) * 37 + 11)[None] % len(head.weight)
    training = model.training
    model.eval()
    with torch.no_grad():
        own = original(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        expected = -own.gather(1, ids[0, 1:, None]).mean().item()
        found = model(input_ids=ids, labels=ids).loss.item()
    model.train(training)
    if not abs(found - expected) <= TOLERANCE[head.weight.dtype] * max(1.0, abs(expected) / 10):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that HALops doesn't know: "
            f"a loss of {expected:.4f} by its own forward pass, {found:.4f} by ours",
            where=str(Path(str(model.config._name_or_path)).name),
            remedy="take a model of another family",
        )

"""Each kernel of ours on a GPU against its reference, which runs on the CPU in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

HIDDEN, INNER = 3584, 18944  # of Qwen2.5-7B


def gap(found: Tensor, expected: Tensor) -> float:
    """Relative."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def references(dtype: torch.dtype) -> dict[str, float]:
    """Relative gap of each kernel to its reference."""
    from halops.train.fused import dropout, rotary, swiglu
    from halops.train.fused.place import place
    from halops.train.fused.rms_norm import rms_norm
    from halops.train.loss import chunked_loss

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda").to(dtype)

    def both(function: Callable[..., Tensor], *given: Tensor) -> float:
        wide = [item.cpu().double() for item in given]
        return gap(function(*[item.clone() for item in given]).cpu(), function(*wide))

    found = {}
    x, weight, grad, past = draw(64, HIDDEN), draw(HIDDEN), draw(64, HIDDEN), draw(64, HIDDEN)
    found["rms_norm"] = both(lambda a, w: rms_norm(a, w, 1e-6, a.new_empty(64, HIDDEN + 16)[:, :HIDDEN]), x, weight)
    found["rms_norm backward"] = both(_norm_backward, grad, x, weight, past, draw(64, 48))
    found["place"] = both(lambda a: place(a, a.new_empty(64, HIDDEN + 16)[:, :HIDDEN]), x)
    wide = draw(64, 2 * INNER)
    found["swiglu"] = both(lambda a: swiglu.swiglu(a, a.new_empty(64, INNER + 16)[:, :INNER]), wide)
    found["swiglu backward"] = both(
        lambda g, m: torch.cat([swiglu.swiglu_backward_(g, m), m], 1), draw(64, INNER), wide
    )
    stacked = torch.cat([draw(16, INNER), draw(48, INNER).zero_()])
    for name, masks in (("", None), (", dropout", dropout.Masks(7, 0.3, (16,)))):
        found["gated" + name] = both(partial(_gated, masks=masks), wide, stacked)
        inputs = draw(64, INNER), wide, draw(64, 16), draw(64, 32)
        found["gated backward" + name] = both(partial(_gated_backward, masks=masks), *inputs)
    angle = torch.randn(64, 64, device="cuda")
    tables = [torch.cat([item, item], 1).to(dtype) for item in (angle.cos(), angle.sin())]
    found["rotary"] = both(lambda h, c, s: rotary.rotate(h, c, s, torch.empty_like(h)), draw(64, 32, 128), *tables)
    masks, rows, outer = dropout.Masks(7, 0.3, (16, 16, 16)), draw(48, HIDDEN), draw(64, 48)
    found["dropout's products"] = both(lambda a, b: dropout.products(a, b, masks, a.new_empty(64, 48)), x, rows)
    found["dropout's products back"] = both(
        lambda a, g, w: dropout.add_products_back_(a, g, w, masks), past, outer, rows
    )
    found["dropout's weights"] = both(lambda *a: dropout.weight_gradient(a[0], a[1], masks), outer, x)
    hidden, head = draw(1, 300, HIDDEN) * 0.2, draw(4096, HIDDEN) * 0.2
    labels = torch.randint(0, 4096, (1, 300), device="cuda")
    results = []
    for item, table, where in ((hidden, head, "cuda"), (hidden.cpu().double(), head.cpu().double(), "cpu")):
        leaf = item.clone().requires_grad_()
        if where == "cuda":
            loss = chunked_loss(leaf, table, None, labels)
        else:
            loss = torch.nn.functional.cross_entropy(leaf[0, :-1] @ table.t(), labels[0, 1:].cpu())
        torch.autograd.backward(loss)
        assert leaf.grad is not None
        results.append((loss.detach().cpu(), leaf.grad.cpu()))
    found["cross entropy"] = gap(results[0][0], results[1][0])
    found["cross entropy backward"] = gap(results[0][1], results[1][1])
    return found


def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, past: Tensor, ranks: Tensor) -> Tensor:
    from halops.train.fused.rms_norm import rms_norm_backward

    made = rms_norm_backward(grad, x, weight, 1e-6, past, torch.empty_like(x), ranks)
    return torch.cat([made, ranks], dim=1)


def _gated(wide: Tensor, stacked: Tensor, masks: Any) -> Tensor:
    """The product, and what the adapter makes of it, by its own size: it is a hundred times as large."""
    from halops.train.fused.gated import gated

    out = wide.new_empty(len(wide), INNER + len(stacked))
    seen = torch.empty_like(out[:, INNER:])
    gated(wide, out[:, :INNER], stacked, 16, out[:, INNER:], seen, masks)
    assert torch.equal(seen, out[:, INNER:])
    return torch.cat([out[:, :INNER], seen / INNER**0.5], dim=1)


def _gated_backward(*given: Tensor, masks: Any) -> Tensor:
    from halops.train.fused.gated import gated_backward_

    grad, both, room, seen = given
    learned = gated_backward_(grad, both, room, (seen[:, :16], seen[:, 16:]), (2.0, 2.0), masks)
    return torch.cat([both.flatten(), *(item.flatten() for item in learned)])

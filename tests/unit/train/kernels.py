"""Each Triton kernel under Triton's own interpreter against its torch reference in float64.

Run as a process of its own, `TRITON_INTERPRET=1 python -m tests.unit.train.kernels`: the variable counts at import.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from halops.planner.settings import MemorySettings
from halops.train.fused import dropout, launch, mlp, rotary, swiglu
from halops.train.fused.dequantize import dequantize
from halops.train.fused.gated import gated, gated_backward_
from halops.train.fused.install import install
from halops.train.fused.place import place
from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
from halops.train.host_embedding import HostEmbedding
from halops.train.loss import chunked_loss
from halops.train.packing import StepCollator
from tests.unit.train.test_packing import FAMILIES, adapted, gradients, rows_of

T, H, INNER = 5, 24, 40


def close(name: str, found: torch.Tensor, expected: torch.Tensor, bound: float = 2e-6) -> None:
    gap = float((found.double() - expected.double()).norm() / expected.double().norm())
    print(f"{name}: {gap:.1e}")
    assert gap < bound, name


def both_ways(name: str, function: object, *arguments: object) -> None:
    """By the kernel in fp32, by the reference in float64."""
    launch.INTERPRETED = True
    found = function(*[item.clone() if torch.is_tensor(item) else item for item in arguments])  # type: ignore[operator]
    launch.INTERPRETED = False
    wide = [item.double() if torch.is_tensor(item) and item.is_floating_point() else item for item in arguments]
    expected = function(*[item.clone() if torch.is_tensor(item) else item for item in wide])  # type: ignore[operator]
    launch.INTERPRETED = True
    close(name, found, expected)


def strided(columns: int) -> torch.Tensor:
    """Rows that lie further apart than they are long."""
    return torch.randn(T, columns + 3)[:, :columns]


def norms() -> None:
    x, weight, grad, past = torch.randn(T, H), torch.randn(H), torch.randn(T, H), torch.randn(T, H)

    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, 1e-6, torch.full((T, H + 8), 9.0, dtype=x.dtype)[:, :H])

    both_ways("rms_norm", forward, x, weight)
    copy = torch.full((T, H + 2), 9.0)[:, :H]
    rms_norm(x, weight, 1e-6, torch.empty_like(x), copy)
    assert torch.equal(copy, x)

    def backward(*given: torch.Tensor) -> torch.Tensor:
        grad, x, weight, past, ranks = given
        made = torch.full((T, H + 8), 9.0, dtype=x.dtype)[:, :H]
        return torch.cat([rms_norm_backward(grad, x, weight, 1e-6, past, made, ranks), ranks], dim=1)

    for ranks in (torch.randn(T, 5), torch.empty(T, 0)):
        both_ways("rms_norm_backward", backward, grad, x, weight, past, ranks)


def products() -> None:
    matrix = torch.randn(T, 2 * INNER)
    both_ways("swiglu", lambda a: swiglu.swiglu(a, torch.empty(T, INNER + 4, dtype=a.dtype)[:, :INNER]), matrix)

    def backward(grad: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        product = swiglu.swiglu_backward_(grad, matrix)
        return torch.cat([matrix, product], dim=1)

    both_ways("swiglu_backward_", backward, torch.randn(T, INNER), matrix)


def gates() -> None:
    """Gradients in gate and up, and what is learnt on the way; adapters of one matrix or of two, dropout or none."""
    for tokens, inner, rank, masks in (
        (5, 40, 4, None), (70, 200, 16, None), (70, 136, 3, dropout.Masks(7, 0.3, (3,))), (300, 44, 40, None),
    ):  # fmt: skip

        def backward(*given: torch.Tensor, rank: int = rank, masks: dropout.Masks | None = masks) -> torch.Tensor:
            grad, both, room, seen = given
            learned = gated_backward_(grad, both, room, (seen[:, :rank], seen[:, -rank:]), (2.0, 0.5), masks)
            return torch.cat([both.flatten(), *(item.flatten() for item in learned)])

        grad, both = torch.randn(tokens, inner + 8)[:, :inner], torch.randn(tokens, 2 * inner)
        for wide in (rank, 2 * rank):
            both_ways("gated_backward_", backward, grad, both, torch.randn(tokens, rank), torch.randn(tokens, wide))

        def forward(*given: torch.Tensor, rank: int = rank, masks: dropout.Masks | None = masks) -> torch.Tensor:
            both, a = given
            out, filled = (both.new_full((len(both), both.shape[1] // 2 + len(a)), 9.0) for _ in range(2))
            a[rank:] = 0
            gated(both, out[:, : -len(a)], a, rank, out[:, -len(a) :], filled[:, 1 : 1 + len(a)], masks)
            return torch.cat([out, filled[:, 1 : 1 + len(a)]], dim=1)

        both_ways("gated", forward, both, torch.randn(rank + 5, inner))


def places() -> None:
    both_ways("place", lambda x: place(x, x.new_full((T, INNER + 5), 9.0)[:, 2 : INNER + 2]), strided(INNER))
    both_ways("place narrow rows", lambda x: place(x, x.new_full((700, 9), 9.0)[:, :7]), torch.randn(700, 10)[:, :7])
    both_ways("place alone", lambda x: place(x, x.new_full((T, INNER + 5), 9.0)[:, :INNER]), torch.randn(T, INNER))


def rotations() -> None:
    angle = torch.randn(T, 4)
    cos, sin = (torch.cat([table, table], dim=1) for table in (angle.cos(), angle.sin()))
    for backward in (False, True):

        def alone(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool = backward) -> torch.Tensor:
            """Into heads that lie elsewhere."""
            return rotary.rotate(heads, cos, sin, heads.new_full((T, 5, 8), 9.0)[:, 1:4], back)

        def in_place(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool = backward) -> torch.Tensor:
            return rotary.rotate(heads[:, :3], cos, sin, heads[:, :3], back)

        both_ways("rotate", alone, torch.randn(T, 3, 8), cos, sin)
        both_ways("rotate in place", in_place, torch.randn(T, 5, 8), cos, sin)


def dropped() -> None:
    """Masks are the references' own: what differs is rounding."""
    for ranks, tokens, columns in (((4, 4, 4), 37, 200), ((16,), 150, 136), ((3, 20, 20), 70, 44)):
        masks, rank = dropout.Masks(7, 0.3, ranks), sum(ranks)
        x, a, grad = torch.randn(tokens, columns), torch.randn(rank + 5, columns), torch.randn(tokens, rank + 5)

        def forward(x: torch.Tensor, a: torch.Tensor, masks: dropout.Masks = masks) -> torch.Tensor:
            return dropout.products(x, a, masks, x.new_full((len(x), len(a) + 3), 9.0)[:, : len(a)])

        both_ways("products", forward, x, a)
        both_ways("add_products_back_", dropout.add_products_back_, torch.randn(tokens, columns), grad, a, masks)
        both_ways("weight_gradient", dropout.weight_gradient, grad, x, masks)


def weights() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for nested in (True, False):
        for kind in ("nf4", "fp4"):
            packed, state = quantize_4bit(torch.randn(96, 128), quant_type=kind, compress_statistics=nested)
            held = torch.nn.Parameter(packed, requires_grad=False)
            held.quant_state = state  # type: ignore[attr-defined]
            found = dequantize(held, torch.full((96, 144), 9.0)[:, :128])
            assert torch.equal(found, dequantize_4bit(packed, state)), (kind, nested)
    print("dequantize: equal")


def lookups() -> None:
    table, ids = torch.randn(50, 1030), torch.randint(0, 50, (1, 9))
    for dtype in (torch.float32, torch.bfloat16):
        found = HostEmbedding(table.to(dtype), torch.device("cpu"))(ids)
        assert torch.equal(found, table.to(dtype)[ids]), dtype
    print("lookup: equal")


def losses() -> None:
    hidden, head = torch.randn(1, 9, H), torch.randn(300, H)
    labels = torch.randint(0, 300, (1, 9))
    labels[0, 4] = -100
    for scale, softcap in ((1.0, None), (0.5, 3.0)):
        found, expected = (gradient(hidden, head, labels, scale, softcap, interpreted) for interpreted in (True, False))
        close("loss", found[0], expected[0])
        close("loss's gradient", found[1], expected[1])


def gradient(
    hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, scale: float, softcap: float | None, kernel: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the kernel, or by full logits in float64."""
    leaf = hidden.detach().clone().to(hidden.dtype if kernel else torch.float64).requires_grad_()
    if kernel:
        loss = chunked_loss(leaf, head, None, labels, scale=scale, softcap=softcap)
    else:
        logits = leaf[0, :-1] @ head.double().t() * scale
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:])
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def models() -> None:
    """Whole models with dropout, by the kernels and by their references: that each gets what it expects."""
    mlp.FORWARD_TOKENS = 1
    for family in ("llama", "phi3"):
        made = []
        for interpreted in (True, False):
            launch.INTERPRETED = interpreted
            with tempfile.TemporaryDirectory() as folder:
                model = adapted(Path(folder) / "base", family, **FAMILIES[family])
            for module in model.modules():
                if hasattr(module, "lora_dropout"):
                    module.lora_dropout["default"] = torch.nn.Dropout(0.3)
            install(model, lambda _: MemorySettings(token_budget=64, checkpointed_layers=1, mlp_tokens=13))
            torch.manual_seed(11)
            made.append(gradients(model, [StepCollator(64)(rows_of([24, 17]))])[1])
        found, expected = (torch.cat([item.flatten() for item in grads.values()]) for grads in made)
        close(f"a {family}'s gradients", found, expected, 5e-6)
    launch.INTERPRETED = True


if __name__ == "__main__":
    assert launch.INTERPRETED
    torch.manual_seed(0)
    for check in (norms, places, products, gates, rotations, dropped, weights, lookups, losses, models):
        check()

"""Our kernels on a GPU: each against its reference in float64, then timed at Qwen2.5-7B's size.

python -m bench.train.kernels
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.train.references import HIDDEN, INNER, gap, references

VOCAB, TOKENS = 152064, 8192
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 6e-3}


def event() -> Any:
    make: Any = torch.cuda.Event
    return make(enable_timing=True)


def milliseconds(call: Callable[[], Any], count: int = 10) -> float:
    """Median over `count` calls, by device events, after three to warm up."""
    for _ in range(3):
        call()
    times = []
    for _ in range(count):
        start, end = event(), event()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return float(statistics.median(times))


def attention(rows: int = 4, longest: int = 4096) -> float:
    """Full rows by cuDNN against flash attention, whose output and gradients the gap is of; and how fast."""
    from halops.train import attention as ours
    from halops.train import full_rows

    heads, kv_heads, tokens, scale = 28, 4, rows * longest, 128**-0.5
    x = torch.randn(tokens, heads + 2 * kv_heads, 128, device="cuda", dtype=torch.bfloat16)
    q, k, v = x[:, :heads], x[:, heads:-kv_heads], x[:, -kv_heads:]
    grad = torch.randn_like(q)
    bounds = torch.arange(0, tokens + 1, longest, device="cuda", dtype=torch.int32)
    if not full_rows.applies(q, rows, longest):
        print("attention: flash alone on this GPU")
        return 0.0

    def both() -> tuple[Tensor, ...]:
        out, kept = ours.forward(q, k, v, bounds, longest, scale)
        return out, *ours.backward(grad, q, k, v, bounds, out, kept, longest, scale)

    found, cudnn = both(), milliseconds(both)
    chosen, full_rows.applies = full_rows.applies, lambda *_: False
    expected, flash = both(), milliseconds(both)
    full_rows.applies = chosen
    print(f"attention, {rows} x {longest}: {cudnn:.2f} ms, {cudnn / flash:.2f} x flash attention's ({flash:.2f} ms)")
    return max(gap(one, other) for one, other in zip(found, expected, strict=True))


def quantized(rows: int, columns: int, device: str, dtype: torch.dtype) -> Any:
    """A random weight as bitsandbytes' layers hold it: NF4, its scales quantized too."""
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(rows, columns, device=device, dtype=dtype)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    held: Any = torch.nn.Parameter(packed, requires_grad=False)
    held.quant_state = state
    return held


def dequantization() -> None:
    """Equal to bitsandbytes' bit for bit; and how fast."""
    import bitsandbytes.functional as functional

    from halops.train.fused.dequantize import dequantize

    held = quantized(INNER, HIDDEN, "cuda", torch.bfloat16)
    packed, state = held.data, held.quant_state
    out = torch.empty(INNER + 16, HIDDEN + 16, dtype=torch.bfloat16, device="cuda")[:INNER, :HIDDEN]
    theirs = functional.dequantize_4bit(packed, state)
    same = (dequantize(held, out) == theirs).float().mean().item()
    mine = milliseconds(lambda: dequantize(held, out))
    other = milliseconds(lambda: functional.dequantize_4bit(packed, state))
    moved = 2.5 * INNER * HIDDEN / 1e9
    print(
        f"dequantize 18944 x 3584: {same:.6f} equal; {mine:.3f} ms ({moved / mine:.2f} TB/s), bitsandbytes {other:.3f}"
    )
    assert same > 0.9999


def recording(device: str = "cuda") -> float:
    """Two layers' gate and up in one buffer, four times: called, recorded, called again since an adapter has moved, and
    recorded anew. Worst gap of the products to those of the plain layers, with the adapters as they are by then."""
    from halops.train.fused.projection import Group, Projection
    from halops.train.fused.recorded import Recorded

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16) * 0.05

    def projection() -> Projection:
        return Projection(draw(256, 128), None, 256, 128, draw(16, 128), draw(256, 16), 2.0)

    buffers: dict[tuple[int, int], Tensor] = {}
    groups = [Group([projection(), projection()], buffers=buffers) for _ in range(2)]
    layers = [(group, Recorded(group.write, group.reads)) for group in groups]
    x, worst = draw(40, 128), 0.0
    for turn in range(4):
        for group, load in layers:
            for item in group.adapters:
                item += 0.01
            if turn == 2:
                group.adapters[0].data = group.adapters[0].clone()
            given = group.input(len(x), x)
            given[:, : group.columns] = x
            load()
            group.adapt(given[:, : group.columns], None, given[:, group.columns :])
            parts = [
                x @ one.weight.t() + one.scale * (x @ a.t()) @ b.t()
                for one, a, b in zip(group.projections, group.adapters[::2], group.adapters[1::2], strict=True)
            ]
            worst = max(worst, gap(group.forward(given), torch.cat(parts, 1)))
    return worst


def dropping(count: int, columns: int) -> None:
    """The three products of so many adapters with dropout, beside the forward one without."""
    from halops.train.fused import dropout

    masks, rank = dropout.Masks(7, 0.05, (16,) * count), 16 * count
    x, outer = (torch.randn(TOKENS, width, device="cuda").bfloat16() for width in (columns, rank))
    weights = torch.randn(rank, columns, device="cuda").bfloat16()
    forward = milliseconds(lambda: dropout.products(x, weights, masks, outer))
    learned = milliseconds(lambda: dropout.weight_gradient(outer, x, masks))
    back = milliseconds(lambda: dropout.add_products_back_(x, outer, weights, masks))
    plain = milliseconds(lambda: x @ weights.t())
    said = f"{forward:.3f} ms, {learned:.3f} for the weights, {back:.3f} back; {plain:.3f} without it"
    print(f"dropout before {count} adapters of {columns}: {said}")


def beside_liger() -> None:
    """Our norm and gated product, forward and backward, beside Liger's and what those leave to others: the residual's
    sum after the norm's backward pass, and the product once more after its own, for the adapters' gradients."""
    from liger_kernel.transformers.functional import liger_rms_norm, liger_swiglu

    from halops.train.fused.rms_norm import rms_norm, rms_norm_backward
    from halops.train.fused.swiglu import swiglu, swiglu_backward_

    def draw(columns: int) -> Tensor:
        return torch.randn(TOKENS, columns, device="cuda", dtype=torch.bfloat16)

    x, grad, past, weight = draw(HIDDEN), draw(HIDDEN), draw(HIDDEN), draw(HIDDEN)[0]
    out, leaf, none = torch.empty_like(x), x.clone().requires_grad_(), x[:, :0]

    def ours() -> None:
        rms_norm(x, weight, 1e-6, out)
        rms_norm_backward(grad, x, weight, 1e-6, past, out, none)

    def theirs() -> None:
        made = liger_rms_norm(leaf, weight, 1e-6, in_place=False)
        torch.autograd.grad(made, leaf, grad)[0].add_(past)

    print(f"rms_norm, both passes: {milliseconds(ours):.3f} ms, Liger's {milliseconds(theirs):.3f}")
    both, outer, inner = draw(2 * INNER), draw(INNER), draw(INNER)
    gate, up = draw(INNER).requires_grad_(), draw(INNER).requires_grad_()

    def product() -> None:
        swiglu(both, inner)
        swiglu_backward_(outer, both)

    def liger_product() -> None:
        torch.autograd.grad(liger_swiglu(gate, up), (gate, up), outer)
        liger_swiglu(gate.detach(), up.detach())

    print(f"swiglu, both passes: {milliseconds(product):.3f} ms, Liger's {milliseconds(liger_product):.3f}")


def gating(tokens: int) -> None:
    """The MLP's backward pass between its two products in one kernel, beside the product and three of torch's."""
    from halops.train.fused.gated import gated_backward_
    from halops.train.fused.swiglu import swiglu_backward_

    def draw(columns: int) -> Tensor:
        return torch.randn(tokens, columns, device="cuda", dtype=torch.bfloat16)

    grad, both, room, seen = draw(INNER), draw(2 * INNER), draw(16), draw(32)
    pair = (seen[:, :16], seen[:, 16:])

    def apart() -> None:
        _ = room.t() @ swiglu_backward_(grad, both)
        for half, one in zip(both.chunk(2, dim=1), pair, strict=True):
            _ = half.t() @ one

    together = milliseconds(lambda: gated_backward_(grad, both, room, pair, (2.0, 2.0), None))
    print(f"gated, {tokens} tokens: {together:.3f} ms, apart {milliseconds(apart):.3f}")


def placing() -> None:
    """Rows into a wider tensor, beside torch's copy."""
    from halops.train.fused.place import place

    x = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16)
    out = x.new_empty(TOKENS, HIDDEN + 16)[:, :HIDDEN]
    mine, torchs = milliseconds(lambda: place(x, out)), milliseconds(lambda: out.copy_(x))
    print(f"place {TOKENS} x {HIDDEN}: {mine:.3f} ms, torch's copy {torchs:.3f}")


def head() -> None:
    """The head's loss and gradient against the two bare products."""
    from halops.train.loss import chunked_loss

    hidden = (torch.randn(1, TOKENS, HIDDEN, device="cuda") * 0.1).bfloat16().requires_grad_()
    table = (torch.randn(VOCAB, HIDDEN, device="cuda") * 0.02).bfloat16()
    labels = torch.randint(0, VOCAB, (1, TOKENS), device="cuda")
    trained = torch.arange(TOKENS - 1, device="cuda")

    def loss() -> None:
        torch.autograd.backward(chunked_loss(hidden, table, None, labels, 1.0, trained=trained))

    def bare() -> None:
        for part in torch.split(hidden.detach()[0], 1024):
            (part @ table.t()) @ table

    mine, products = milliseconds(loss, 5), milliseconds(bare, 5)
    print(f"head, {TOKENS} tokens: {mine:.1f} ms, {mine / products:.2f} x its bare products ({products:.1f} ms)")


def main() -> int:
    print(torch.cuda.get_device_name(), torch.__version__)
    good = True
    for dtype, bound in BOUNDS.items():
        for name, found in references(dtype).items():
            fine = found < bound
            good &= fine
            print(f"{dtype!s:15} {name:24} {found:.1e} {'' if fine else 'TOO FAR'}")
    found = attention()
    good &= found < BOUNDS[torch.bfloat16]
    print(f"torch.bfloat16  attention of full rows   {found:.1e}")
    found = recording()
    good &= found < BOUNDS[torch.bfloat16]
    print(f"torch.bfloat16  recorded weights         {found:.1e}")
    dequantization()
    for count, columns in ((3, HIDDEN), (2, HIDDEN), (1, HIDDEN), (1, INNER)):
        dropping(count, columns)
    beside_liger()
    for tokens in (3000, TOKENS, 4 * TOKENS):
        gating(tokens)
    placing()
    head()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

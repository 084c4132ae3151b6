"""Kernels that training may come to use, each beside what it uses now: right, and how fast.

    python -m bench.train.candidates
    TRITON_INTERPRET=1 python -m bench.train.candidates --check     # without a GPU: only whether they are right

**mlp_gradients**: the MLP's backward pass sums up the gradients of down's A and of gate's and up's B as it goes, a
block of columns over many rows: the product is never written, and nothing is read again for them.

**dequantize**: a program takes whole blocks of one scale, which is reckoned once for each; codes come from memory, or
from registers by `gather`.

**rms_norm**: with fewer warps and with more; training has 8.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from bench.train.candidates_triton import _dequantize, _mlp_gradients
from bench.train.kernels import HIDDEN, INNER, gap, milliseconds, quantized
from halops.train.fused.dequantize import dequantize as dequantize_now
from halops.train.fused.swiglu import swiglu_backward_

RANK = 16


def mlp_gradients(grad: Tensor, both: Tensor, room: Tensor, seen: Tensor, tile: tuple[int, int, int, int]) -> Tensor:
    """Turn `both` [T, 2 I] into the gradient in gate and up of that in their product, `grad` [T, I].

    Args:
        room: [T, R], s B^T g of down.
        seen: [T, 2 R], what the adapters of gate and up made of their input.
        tile: its rows, its columns, parts that the tokens are cut into, warps.

    Returns: [3, R, I] fp32: the gradients in down's A, and, less their factor and turned, in gate's and up's B.
    """
    rows, columns, parts, warps = tile
    tokens, width = grad.shape
    part = triton.cdiv(triton.cdiv(tokens, parts), rows) * rows
    made = torch.empty(parts, 3, RANK, width, dtype=torch.float32, device=grad.device)
    _mlp_gradients[(triton.cdiv(width, columns), parts)](
        grad, both, room, seen, made, tokens, part, width, grad.stride(0), both.stride(0), room.stride(0),
        seen.stride(0), RANK=RANK, ROWS=rows, COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return made.sum(0) if parts > 1 else made[0]


def as_now(grad: Tensor, both: Tensor, room: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same three by what training uses now; `grad` becomes the product."""
    product = swiglu_backward_(grad, both)
    gates, ups = both.chunk(2, dim=1)
    return room.t() @ product, gates.t() @ seen[:, :RANK], ups.t() @ seen[:, RANK:]


def dequantize(weight: Any, out: Tensor, blocks: int, gather: bool, warps: int) -> Tensor:
    """As halops.train.fused.dequantize, for rows of whole blocks and quantized scales."""
    packed, state = weight.data, weight.quant_state
    count = 2 * packed.numel() // state.blocksize
    _dequantize[(triton.cdiv(count, blocks),)](
        packed, state.absmax, state.code, out, state.state2.code, state.state2.absmax, state.offset, count,
        out.shape[1] // state.blocksize, out.stride(0), PER_SCALE=state.blocksize, PER_OUTER=state.state2.blocksize,
        BLOCKS=blocks, GATHER=gather, num_warps=warps,
    )  # fmt: skip
    return out


TILES = [(32, 128, parts, warps) for parts in (1, 2, 4, 8) for warps in (4, 8)] + [
    (rows, columns, parts, 4) for rows, columns in ((16, 128), (32, 64), (64, 64)) for parts in (2, 4)
]
WAYS = [(blocks, gather, warps) for blocks in (32, 64, 128) for gather in (False, True) for warps in (4, 8)]


def mlp_tensors(tokens: int, inner: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def draw(columns: int) -> Tensor:
        return torch.randn(tokens, columns + 16, device=device).to(dtype)[:, :columns]

    return draw(inner), draw(2 * inner), draw(RANK), draw(2 * RANK)


def right(device: str, dtype: torch.dtype) -> float:
    """Worst gap of `mlp_gradients` to the references in float64."""
    given = mlp_tensors(70, 200, device, dtype)
    wide = [item.cpu().double() for item in given]
    a, gates, ups = as_now(*wide)
    both = given[1].clone()
    found = mlp_gradients(given[0], both, given[2], given[3], (32, 64, 2, 4)).cpu()
    pairs = ((both.cpu(), wide[1]), (found[0], a), (found[1], gates.t()), (found[2], ups.t()))
    return max(gap(*pair) for pair in pairs)


def same(device: str, dtype: torch.dtype) -> bool:
    """Whether `dequantize` gives bitsandbytes' bits, each way."""
    from bitsandbytes.functional import dequantize_4bit

    held, out = quantized(30, 320, device, dtype), torch.zeros(30, 330, device=device, dtype=dtype)[:, :320]
    expected = dequantize_4bit(held.data, held.quant_state)
    return all(dequantize(held, out.zero_(), *way).equal(expected) for way in WAYS[::2])


def timed_gradients(tokens: int) -> None:
    given = mlp_tensors(tokens, INNER, "cuda", torch.bfloat16)
    print(f"mlp_gradients, {tokens} tokens: {milliseconds(lambda: as_now(*given)):.3f} ms now")
    for tile in TILES:
        took = milliseconds(partial(mlp_gradients, *given, tile))
        print(f"  {tile[0]} rows, {tile[1]} columns, {tile[2]} parts, {tile[3]} warps: {took:.3f}", flush=True)


def timed_weights(rows: int, columns: int) -> None:
    held = quantized(rows, columns, "cuda", torch.bfloat16)
    out = torch.empty(rows + 16, columns + 16, dtype=torch.bfloat16, device="cuda")[:rows, :columns]
    print(f"dequantize {rows} x {columns}: {milliseconds(lambda: dequantize_now(held, out)):.3f} ms now")
    for way in WAYS:
        took = milliseconds(partial(dequantize, held, out, *way))
        print(f"  {way[0]} blocks, {'gathered' if way[1] else 'loaded'}, {way[2]} warps: {took:.3f}", flush=True)


def timed_norms(warps: int) -> None:
    from halops.train.fused import rms_norm_triton as kernels

    x, grad, past, out = (torch.randn(8192, HIDDEN, device="cuda").bfloat16() for _ in range(4))
    shape, block = (x, x[0].clone(), out), 4096

    def forward() -> None:
        kernels._forward[(len(x),)](*shape, 1e-6, HIDDEN, HIDDEN, HIDDEN, BLOCK=block, num_warps=warps)

    def backward() -> None:
        kernels._backward[(len(x),)](
            grad, *shape[:2], past, out, 1e-6, *[HIDDEN] * 5, BLOCK=block, num_warps=warps
        )  # fmt: skip

    print(f"rms_norm, {warps} warps: {milliseconds(forward):.3f} ms, back {milliseconds(backward):.3f}", flush=True)


def main() -> int:
    doc = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.train.candidates", description=doc)
    parser.add_argument("--check", action="store_true", help="only whether they are right")
    options = parser.parse_args()
    device, dtypes = "cpu", {torch.float32: 2e-6}
    if torch.cuda.is_available():
        device, dtypes = "cuda", {torch.float32: 2e-6, torch.bfloat16: 6e-3}
    good = all(same(device, dtype) and right(device, dtype) < bound for dtype, bound in dtypes.items())
    print("right" if good else "wrong", flush=True)
    if not options.check:
        for tokens in (3000, 8192, 32768):
            timed_gradients(tokens)
        timed_weights(INNER, HIDDEN)
        timed_weights(HIDDEN, INNER)
        for warps in (2, 4, 8, 16):
            timed_norms(warps)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

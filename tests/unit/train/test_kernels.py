"""The Triton kernels without a GPU: by Triton's interpreter against float64, and compiled for two generations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
WORDS = {"fp32": "*fp32", "bf16": "*bf16"}


@pytest.mark.slow  # an interpreter of its own
def test_each_kernel_against_its_reference_in_float64() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "tests.unit.train.kernels"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(": ") >= 15


def kernels() -> list[tuple[str, Any, dict[str, str], dict[str, Any]]]:
    """Name, function, types of its arguments, constants: as they are launched for Qwen2.5-7B in bfloat16."""
    from halops.train.fused import (
        cross_entropy_triton,
        dequantize_triton,
        dropout_triton,
        gated_triton,
        lookup_triton,
        place_triton,
        rms_norm_triton,
        rotary_triton,
        swiglu_triton,
    )

    def types(pointers: str, **others: str) -> dict[str, str]:
        return dict.fromkeys(pointers.split(), "*bf16") | others

    def dropping(more: str) -> dict[str, str]:
        known = "width a_stride calls rank first seed threshold"
        return dict.fromkeys(f"{known} {more}".split(), "i32") | {"scale": "fp32"}

    gated = types(
        "grad both room gate_seen up_seen", out="*fp32", gate_scale="fp32", up_scale="fp32", keep_scale="fp32",
        **{f"{name}_stride": "i32" for name in ("grad", "both", "room", "gate", "up")},
        **dict.fromkeys(["tokens", "part", "width", "rank", "calls", "seed", "threshold"], "i32"),
    )  # fmt: skip
    norm = {"BLOCK": 4096}
    strides = {f"{name}_stride": "i32" for name in ("grad", "x", "residual", "out", "ranks")}
    outer = {"scales": "*u8", "code": "*fp32", "outer_code": "*fp32", "outer_scales": "*fp32", "offset": "*fp32"}
    return [
        ("rms_norm", rms_norm_triton._forward,
         types("x weight out copy", eps="fp32", width="i32", x_stride="i32", out_stride="i32", copy_stride="i32"),
         norm | {"COPIED": True}),
        ("rms_norm_backward", rms_norm_triton._backward,
         types("grad x weight residual out ranks", eps="fp32", width="i32", count="i32", **strides),
         norm | {"RANKS": 64}),
        ("swiglu", swiglu_triton._forward, types("both out", width="i32", both_stride="i32", out_stride="i32"),
         {"BLOCK": 2048}),
        ("swiglu_backward", swiglu_triton._backward,
         types("grad both", width="i32", grad_stride="i32", both_stride="i32"), {"BLOCK": 2048}),
        ("dropout and the gated product's gradients", gated_triton._backward, gated,
         {"ONCE": True, "DROPS": True, "RANK": 16, "ROWS": 16, "COLUMNS": 64}),
        ("dropout and the gated product", gated_triton._forward,
         types("both out a room seen", keep_scale="fp32",
               **dict.fromkeys(["tokens", "width", "rank", "extra", "calls", "seed", "threshold"], "i32"),
               **{f"{name}_stride": "i32" for name in ("both", "out", "a", "room", "seen")}),
         {"ONCE": True, "DROPS": True, "RANK": 16, "ROWS": 16, "COLUMNS": 128}),
        ("their sums", gated_triton._add_up, {"parts": "*fp32", "out": "*bf16", "count": "i32", "number": "i32"},
         {"BLOCK": 1024}),
        ("rotary", rotary_triton._rotate,
         types("given out cos sin", heads="i32", stride="i32", head_stride="i32", out_stride="i32",
               out_head_stride="i32", table_stride="i32", sign="fp32"),
         {"HALF": 64, "HALF_BLOCK": 64, "HEADS_BLOCK": 32}),
        ("dropout's products", dropout_triton._products, types("x a out", **dropping("tokens x_stride out_stride")),
         {"RANK": 16, "ROWS": 32, "COLUMNS": 128}),
        ("dropout's products back", dropout_triton._add_products_back,
         types("into grad a", **dropping("tokens into_stride grad_stride")),
         {"COUNT": 3, "RANK": 16, "ROWS": 32, "COLUMNS": 128}),
        ("dropout's weight gradient", dropout_triton._weight_gradient,
         types("grad x", out="*fp32", **dropping("tokens part grad_stride x_stride out_stride")),
         {"RANK": 16, "ROWS": 32, "COLUMNS": 128}),
        ("dequantize", dequantize_triton._dequantize,
         {"packed": "*u8", "out": "*bf16", "count": "i32", "blocks": "i32", "stride": "i32", **outer},
         {"PER_SCALE": 64, "PER_OUTER": 256, "NESTED": True, "BLOCKS": 64}),
        ("place", place_triton._place,
         types("x out", tokens="i32", width="i32", x_stride="i32", out_stride="i32"), {"ROWS": 64, "BLOCK": 64}),
        ("lookup", lookup_triton._lookup, {"table": "*bf16", "ids": "*i64", "out": "*bf16", "width": "i32"},
         {"BLOCK": 1024}),
        ("cross_entropy", cross_entropy_triton._cross_entropy,
         {"logits": "*bf16", "targets": "*i64", "losses": "*fp32", "width": "i32", "stride": "i32", "scale": "fp32",
          "softcap": "fp32"}, {"CAPPED": True, "WANTED": True, "BLOCK": 8192}),
    ]  # fmt: skip


def compiled(
    function: Any, types: dict[str, str], constants: dict[str, Any], capability: int, aligned: Collection[str] = ()
) -> Any:
    """To machine code, by the ptxas that comes with Triton.

    Args:
        aligned: arguments that are multiples of 16.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    place = function.arg_names.index
    source = ASTSource(
        fn=function,
        signature={argument: types.get(argument, "constexpr") for argument in function.arg_names},
        constexprs={(place(key),): value for key, value in constants.items()},
        attrs={(place(item),): [["tt.divisibility", 16]] for item in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_each_kernel_compiles(capability: int) -> None:
    for name, function, types, constants in kernels():
        assert compiled(function, types, constants, capability).asm["cubin"], name


CONSUMER_SHARED = 99 * 1024  # bytes of shared memory that a block gets of capability 8.6 and 8.9


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "element"), [("bf16", 2), ("fp32", 4)])
@pytest.mark.parametrize("rank", [16, 64, 256])
def test_adapters_tiles_fit_a_consumer_card(dtype: str, element: int, rank: int) -> None:
    """With wide rows that start aligned, as the layers have them: loads are pipelined then, through shared memory."""
    from halops.train.fused import dropout_triton, gated, gated_triton

    for name, function, types, constants in kernels():
        if not name.startswith("dropout") or ("gated" in name and rank > gated.MOST_RANK):
            continue
        kinds = {argument: kind.replace("bf16", dtype) for argument, kind in types.items()}
        aligned = [
            item for item, kind in kinds.items()
            if kind.startswith("*") or "stride" in item or item in ("width", "rank", "calls")
        ]  # fmt: skip
        back = function is gated_triton._backward
        columns_for = gated_triton.backward_columns if back else dropout_triton.columns_for
        changed = {"RANK": rank, "COLUMNS": columns_for(rank, element)}
        made = compiled(
            function, kinds, constants | changed, 86, [item for item in aligned if item in function.arg_names]
        )
        assert made.metadata.shared <= CONSUMER_SHARED, name

"""Casts against numpy's float16 and ml_dtypes' bfloat16."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from halops.merge.cast import OutOfRange, Scratch, narrow, to_float32

KINDS: dict[Any, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def telling_bits() -> np.ndarray:
    """Every sign and exponent, with mantissas around each place where rounding turns, and random ones."""
    turns = [0, 1, 2, 0x0FFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x2001, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001,
             0x17FFF, 0x18000, 0x18001, 0x3FFFFF, 0x400000, 0x400001, 0x7FDFFF, 0x7FE000, 0x7FEFFF, 0x7FF000,
             0x7FFFFF]  # fmt: skip
    random = np.random.default_rng(0).integers(0, 1 << 23, 4000)
    mantissas = np.concatenate([turns, random]).astype(np.uint32)
    exponents = np.arange(512, dtype=np.uint32) << 23
    return (exponents[:, None] | mantissas[None, :]).ravel()


@pytest.mark.parametrize("dtype", KINDS)
def test_rounds_as_the_reference_does(dtype: Any) -> None:
    values = telling_bits().view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(KINDS[dtype])
    finite = np.isfinite(expected.astype(np.float32))
    values, expected = np.ascontiguousarray(values[finite]), expected[finite]
    out = np.empty(values.size, np.uint16)
    narrow(values, dtype, out, Scratch(values.size))
    assert (out == expected.view(np.uint16)).all()
    assert finite.sum() > 200_000


@pytest.mark.parametrize(
    ("dtype", "largest", "too_large"),
    [("float16", np.nextafter(np.float32(65520), np.float32(0)), 65520.0), ("bfloat16", 3.3961e38, 3.3962e38)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_refuses_what_would_become_infinite(dtype: Any, largest: float, too_large: float, sign: int) -> None:
    values, out, scratch = np.ones(100, np.float32), np.empty(100, np.uint16), Scratch(100)
    values[77] = largest * sign
    narrow(values, dtype, out, scratch)
    assert np.isfinite(out.view(KINDS[dtype]).astype(np.float32)).all()
    values[33] = too_large * sign
    with pytest.raises(OutOfRange) as caught:
        narrow(values, dtype, out, scratch)
    assert caught.value.value == np.float32(too_large)


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("dtype", KINDS)
def test_refuses_infinities_and_nans(dtype: Any, bits: int) -> None:
    values = np.zeros(9, np.uint32)
    values[5] = bits
    with pytest.raises(OutOfRange):
        narrow(values.view(np.float32), dtype, np.empty(9, np.uint16), Scratch(9))


@pytest.mark.parametrize(("code", "kind"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_widens_every_16_bit_pattern(code: str, kind: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    out = np.empty(bits.size, np.float32)
    to_float32(bits.view(np.uint8), code, out)
    expected = bits.view(kind).astype(np.float32)
    same = (out.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(out) & np.isnan(expected))
    assert same.all()


def test_reads_float64_and_float32() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    out = np.empty(1000, np.float32)
    for code, stored in (("F64", values), ("F32", values.astype(np.float32))):
        to_float32(stored.view(np.uint8), code, out)
        assert (out == values.astype(np.float32)).all()

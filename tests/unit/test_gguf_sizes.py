"""File sizes against what `llama-quantize --dry-run` printed for GGUF files of these shapes."""

from __future__ import annotations

import pytest

from halops.gguf_sizes import gguf_bytes, quantize_seconds, table_bytes
from halops.profile import load_profile
from halops.sections import Dimensions

QWEN = Dimensions()
LOCAL = load_profile("local").model.dimensions
assert LOCAL is not None
SMOL = LOCAL
MIB = 2**20

# type -> MiB of (Qwen2.5-7B, SmolLM2-135M); the second falls back in most tensors, its rows not being multiples of 256
DRY_RUN = {
    "q2_k": (2870.55, 82.41), "q3_k_s": (3324.90, 82.41), "q3_k_m": (3626.29, 87.48), "q3_k_l": (3893.38, 91.31),
    "q4_0": (4220.43, 85.77), "q4_1": (4641.85, 92.10), "q4_k_s": (4245.58, 95.61), "q4_k_m": (4460.45, 98.87),
    "q5_0": (5063.27, 98.43), "q5_1": (5484.69, 104.76), "q5_k_s": (5063.27, 103.18), "q5_k_m": (5186.92, 105.21),
    "q6_k": (5958.79, 130.27), "q8_0": (7717.68, 136.40), "iq4_xs": (4047.72, 85.38), "iq4_nl": (4250.83, 86.09),
    "bf16": (14526.27, 256.63), "f16": (14526.27, 256.63),
}  # fmt: skip


@pytest.mark.parametrize("kind", DRY_RUN)
def test_sizes_are_those_of_llama_quantize(kind: str) -> None:
    large, small = DRY_RUN[kind]
    assert gguf_bytes(QWEN, kind) / MIB == pytest.approx(large, abs=0.01)
    assert gguf_bytes(SMOL, kind) / MIB == pytest.approx(small, abs=0.01)


def test_other_types_are_near() -> None:
    assert gguf_bytes(QWEN, "iq3_m") / MIB == pytest.approx(3402.77, rel=0.01)
    assert gguf_bytes(SMOL, "iq3_m") / MIB == pytest.approx(84.33, rel=0.03)


def test_names_are_read_as_llama_quantize_reads_them() -> None:
    assert gguf_bytes(QWEN, "Q4_K_M") == gguf_bytes(QWEN, "q4_k") == gguf_bytes(QWEN, "q4_k_m")


def test_an_unknown_type_is_an_upper_bound() -> None:
    assert gguf_bytes(QWEN, "q9_z") == pytest.approx(gguf_bytes(QWEN, "f16"), rel=0.001)


def test_the_table_stays_on_the_host_only_if_it_is_not_the_head() -> None:
    assert table_bytes(QWEN, "q4_k_m") == 152064 * 3584 * 4.5 / 8
    assert table_bytes(SMOL, "q4_k_m") == 0


def test_quantizing_a_7b_takes_what_was_measured() -> None:
    assert quantize_seconds(QWEN, "q4_k_m", 2) == pytest.approx(201, rel=0.01)
    assert quantize_seconds(QWEN, "f16", 2) == pytest.approx(50, rel=0.01)
    times = [quantize_seconds(QWEN, "q5_k_m", cores) for cores in (1, 2, 4, 16)]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[1] == pytest.approx(1.56)

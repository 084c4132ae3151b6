"""llama-quantize's file types: their names, about how many bits a weight takes, which need an importance matrix."""

from __future__ import annotations

from collections.abc import Sequence

# Bits per weight of a whole file, rounded up: for the free-space check only.
FILE_TYPES: dict[str, float] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.6, "q6_k": 6.7, "q5_k": 5.8, "q5_k_m": 5.8, "q5_k_s": 5.7,
    "q5_0": 5.7, "q5_1": 6.2, "q4_k": 5.0, "q4_k_m": 5.0, "q4_k_s": 4.8, "q4_0": 4.8, "q4_1": 5.2,
    "q3_k": 4.1, "q3_k_s": 3.7, "q3_k_m": 4.1, "q3_k_l": 4.4, "q2_k": 3.4, "q2_k_s": 3.2, "q2_0": 2.5, "q1_0": 1.4,
    "iq4_nl": 4.8, "iq4_xs": 4.6, "iq3_m": 3.9, "iq3_s": 3.7, "iq3_xs": 3.5, "iq3_xxs": 3.3, "iq2_m": 3.0,
    "iq2_s": 2.8, "iq2_xs": 2.6, "iq2_xxs": 2.4, "iq1_m": 2.2, "iq1_s": 2.0, "tq2_0": 2.4, "tq1_0": 2.0,
    "mxfp4_moe": 8.6,
}  # fmt: skip

# The converter writes these itself, straight from the merged tensors.
DIRECT = ("f32", "f16", "bf16")

# llama-quantize refuses these without an importance matrix: a tensor of theirs becomes one of IQ1_S to IQ3_XXS.
NEED_IMATRIX = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s")


USABLE = tuple(name for name in FILE_TYPES if name not in NEED_IMATRIX)


def problems(types: Sequence[str]) -> list[str]:
    """What is wrong with a list of file types, a line for each; in any case of letters."""
    lines = []
    for name in types:
        if name.lower() not in FILE_TYPES:
            lines.append(f"{name!r} is no file type of llama-quantize")
        elif name.lower() in NEED_IMATRIX:
            lines.append(f"{name!r} needs an importance matrix, which HALops doesn't make")
    lowered = [name.lower() for name in types]
    lines += [f"{name!r} is given twice" for name in dict.fromkeys(lowered) if lowered.count(name) > 1]
    return lines if types else ["give at least one file type"]

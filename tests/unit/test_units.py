"""Numbers as a person reads them, at the edges between units."""

from __future__ import annotations

import pytest

from halops.units import human_bytes, human_count, human_gib, human_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_400, "999 kB"), (999_999, "1.0 MB"), (99_949_999, "99.9 MB"),
     (100_000_000, "100 MB"), (4_683_073_184, "4.7 GB"), (15_231_233_024, "15.2 GB"), (2.5e12, "2.5 TB")],
)  # fmt: skip
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.42, "0.4 s"), (9.949, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.9, "1 min"), (60, "1 min"),
     (200, "3 min 20 s"), (3599.9, "1 h 00 min"), (7500, "2 h 05 min"), (7199, "2 h 00 min")],
)  # fmt: skip
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (71_680, "71.7 k"), (40_370_176, "40.4 M"), (999_900, "1.0 M"), (7_615_616_512, "7.62 B")],
)
def test_count(count: float, text: str) -> None:
    assert human_count(count) == text


def test_gib() -> None:
    assert human_gib(6_431_000_000) == "6.0 GiB"

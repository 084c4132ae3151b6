"""Charts: round ticks, honest thinning, coordinates inside the picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from halops.report.svg import Chart, Mark, Point, line_chart, smoothed, thin, ticks


@pytest.mark.parametrize(
    ("low", "high", "count", "values"),
    [
        (0, 3.2, 4, [0, 1, 2, 3, 4]),
        (1, 50, 5, [0, 10, 20, 30, 40, 50]),
        (0, 2e-3, 3, [0, 0.001, 0.002]),
        (0.98, 1.02, 4, [0.98, 0.99, 1.0, 1.01, 1.02]),
        (-1, 3, 3, [-2, 0, 2, 4]),
        (5, 5, 4, [5]),
        (0, 1e9, 4, [0, 2.5e8, 5e8, 7.5e8, 1e9]),
    ],
)
def test_ticks_are_round_and_span(low: float, high: float, count: int, values: list[float]) -> None:
    assert ticks(low, high, count) == values


def test_thinning_keeps_ends_and_peaks() -> None:
    points = [Point(step, 1.0) for step in range(5000)]
    points[3210] = Point(3210, 99.0)
    kept = thin(points, peaks=True)
    assert len(kept) <= 600
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert max(point.y for point in kept) == 99.0
    assert max(point.y for point in thin(points)) < 20  # a mean
    assert thin(points[:600]) == points[:600]


def test_smoothing_keeps_a_line_and_flattens_noise() -> None:
    noisy = [Point(step, 1 + (-1) ** step) for step in range(240)]
    assert all(abs(point.y - 1) < 0.2 for point in smoothed(noisy)[10:-10])
    assert [point.y for point in smoothed([Point(step, 2.0) for step in range(50)])] == [2.0] * 50


def test_a_chart_is_well_formed_and_stays_inside() -> None:
    points = [Point(step, 3 / step) for step in range(1, 100)]
    marks = (Mark(4.0, "held out <base>", "base"), Mark(0.5, "tuned", "tuned"))
    chart = Chart(title="Loss & <more>", points=points, marks=marks, width=700, height=372, smooth=True)
    root = ElementTree.fromstring(line_chart(chart))
    numbers = [path.get("d", "") for path in root.iter("path") if path.get("class") in ("line", "raw")]
    assert len(numbers) == 2
    for x, y in re.findall(r"([\d.]+) ([\d.]+)", " ".join(numbers)):
        assert 0 <= float(x) <= 700
        assert 0 <= float(y) <= 372
    assert root.get("aria-label") == "Loss & <more>: from 3 to 0.030303 at step 99"
    assert [text.text for text in root.iter("text")][-2:] == ["held out <base>", "tuned"]


@pytest.mark.parametrize("points", [[], [Point(1, 2.0)]])
def test_nothing_to_draw(points: list[Point]) -> None:
    assert line_chart(Chart(title="x", points=points)) == ""


def test_a_flat_line_is_drawn() -> None:
    for value in (0.0, 2.0, -1.0):
        ElementTree.fromstring(line_chart(Chart(title="x", points=[Point(1, value), Point(2, value)])))

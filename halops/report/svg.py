"""Line charts as inline SVG. Colours come from the page's CSS, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

MAX_POINTS = 600  # what a chart of this width can show


class Point(NamedTuple):
    """One value of a curve."""

    x: float
    y: float


class Mark(NamedTuple):
    """A horizontal reference line with its words; `css` names its colour's class."""

    y: float
    label: str
    css: str


@dataclass(frozen=True)
class Chart:
    """What to draw, in user units of `width` x `height`.

    `peaks` keeps the largest value where points are thinned out (for spikes); otherwise their mean is kept.
    `smooth` adds a running mean as the main line over the faint raw values.
    """

    title: str
    points: Sequence[Point]
    marks: Sequence[Mark] = ()
    width: int = 340
    height: int = 170
    zero: bool = True
    peaks: bool = False
    smooth: bool = False
    number: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    css: str = ""


_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 30


def line_chart(chart: Chart) -> str:
    """The chart as one `<svg>` element, or an empty string without at least two points."""
    points = thin(chart.points, peaks=chart.peaks)
    if len(points) < 2:
        return ""
    scale = _Scale(chart, points)
    last = points[-1]
    label = f"{chart.title}: from {chart.number(points[0].y)} to {chart.number(last.y)} at step {last.x:g}"
    box = f'viewBox="0 0 {chart.width} {chart.height}"'
    return "".join([
        f'<svg class="chart {chart.css}" {box} role="img" aria-label="{escape(label)}">',
        f"<title>{escape(label)}</title>",
        *_grid(chart, scale),
        *_marks(chart, scale),
        *_lines(chart, scale, points),
        "</svg>",
    ])  # fmt: skip


def thin(points: Sequence[Point], limit: int = MAX_POINTS, *, peaks: bool = False) -> list[Point]:
    """At most `limit` points: each run of neighbours becomes their mean, or their peak. The ends stay."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil((len(points) - 2) / (limit - 2))
    middle = []
    for start in range(1, len(points) - 1, size):
        bucket = points[start : min(start + size, len(points) - 1)]
        if peaks:
            middle.append(max(bucket, key=lambda point: point.y))
        else:
            middle.append(Point(bucket[len(bucket) // 2].x, sum(point.y for point in bucket) / len(bucket)))
    return [points[0], *middle, points[-1]]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that span [low, high]: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    values = [round((first + index) * step, 12) for index in range(count + 3)]
    return values[: next(index for index, value in enumerate(values) if value >= high - step * 1e-9) + 1]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A centred running mean over about a twelfth of the curve."""
    reach = max(1, len(points) // 24)
    result = []
    for index, point in enumerate(points):
        window = points[max(0, index - reach) : index + reach + 1]
        result.append(Point(point.x, sum(other.y for other in window) / len(window)))
    return result


class _Scale:
    """From values to user units."""

    def __init__(self, chart: Chart, points: Sequence[Point]) -> None:
        values = [point.y for point in points] + [mark.y for mark in chart.marks]
        low = min(0.0, *values) if chart.zero else min(values)
        self.y_ticks = ticks(low, max(*values, low + 1e-9), 3 if chart.height < 200 else 5)
        self.x_low, self.x_high = points[0].x, points[-1].x
        self.y_low, self.y_high = self.y_ticks[0], max(*values, low + 1e-9)
        self.y_high += 0.04 * (self.y_high - self.y_low)  # so that the curve doesn't touch the edge
        self.y_ticks = [value for value in self.y_ticks if value <= self.y_high]
        self.right, self.bottom = chart.width - _RIGHT, chart.height - _BOTTOM

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return round(_LEFT + share * (self.right - _LEFT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return round(self.bottom - share * (self.bottom - _TOP), 1)


def _grid(chart: Chart, scale: _Scale) -> list[str]:
    parts = []
    for value in scale.y_ticks:
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{scale.right}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 3.6}" text-anchor="end">{chart.number(value)}</text>')
    for value in ticks(scale.x_low, scale.x_high, 5):
        if scale.x_low <= value <= scale.x_high and float(value).is_integer():
            x = scale.x(value)
            parts.append(f'<path class="axis" d="M{x} {scale.bottom}v4"/>')
            parts.append(f'<text class="tick" x="{x}" y="{scale.bottom + 18}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {scale.bottom}H{scale.right}"/>')
    return parts


def _marks(chart: Chart, scale: _Scale) -> list[str]:
    parts = []
    for mark in chart.marks:
        y = scale.y(mark.y)
        parts.append(f'<path class="mark {mark.css}" d="M{_LEFT} {y}H{scale.right}"/>')
        place = f'x="{scale.right}" y="{y - 6}" text-anchor="end"'
        parts.append(f'<text class="label {mark.css}" {place}>{escape(mark.label)}</text>')
    return parts


def _lines(chart: Chart, scale: _Scale, points: Sequence[Point]) -> list[str]:
    if chart.smooth and len(points) >= 24:
        raw = f'<path class="raw" d="{_path(scale, points)}"/>'
        return [raw, f'<path class="line" d="{_path(scale, smoothed(points))}"/>']
    return [f'<path class="line" d="{_path(scale, points)}"/>']


def _path(scale: _Scale, points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{scale.x(point.x)} {scale.y(point.y)}" for point in points)

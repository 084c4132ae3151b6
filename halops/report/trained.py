"""Page sections on how it was made: training curves, checks, time by stage, the data."""

from __future__ import annotations

from halops.report.markup import Child, Html, bar, definition, el, section
from halops.report.model import HistoryRow, ReportData
from halops.report.svg import Chart, Mark, Point, line_chart
from halops.units import human_bytes, human_count, human_seconds


def curves(data: ReportData) -> Html:
    """Loss, learning rate and gradient norm over steps."""
    charts = [
        _figure("Training loss", "nats per trained token, by optimizer step", _loss_chart(data)),
        _figure("Learning rate", "", line_chart(_chart(data, "learning_rate", "Learning rate", number=_small))),
        _figure("Gradient norm", "before clipping", line_chart(_chart(data, "grad_norm", "Gradient norm", peaks=True))),
    ]
    shown = [chart for chart in charts if chart]
    return section("How it trained", "curves", el("div", *shown, cls="curves") if shown else None, _receipts(data))


def _figure(title: str, caption: str, chart: str) -> Html:
    if not chart:
        return Html("")
    return el("figure", el("figcaption", el("strong", title), f" {caption}" if caption else None), Html(chart))


def _points(rows: tuple[HistoryRow, ...], key: str) -> list[Point]:
    """One value a step; where a step was logged twice (a resumed run), the later one counts."""
    values = {row.step: getattr(row, key) for row in rows if getattr(row, key) is not None}
    return [Point(step, value) for step, value in sorted(values.items())]


def _chart(data: ReportData, key: str, title: str, *, peaks: bool = False, number: object = None) -> Chart:
    form = number if callable(number) else lambda value: f"{value:.3g}"
    return Chart(title=title, points=_points(data.history, key), peaks=peaks, number=form, css=key.replace("_", "-"))


def _loss_chart(data: ReportData) -> str:
    marks = []
    for key, label, css in (
        ("heldout_loss_base", "held out, base", "base"),
        ("heldout_loss", "held out, tuned", "tuned"),
    ):
        if (value := data.number("train", key)) is not None:
            marks.append(Mark(value, f"{label} {value:.2f}", css))
    chart = Chart(
        title="Training loss", points=_points(data.history, "loss"), marks=marks, width=700, height=372, smooth=True,
        number=lambda value: f"{value:.3g}", css="loss",
    )  # fmt: skip
    return line_chart(chart)


def _small(value: float) -> str:
    """A learning rate: 0, 2e-4, 1.5e-5."""
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _receipts(data: ReportData) -> Html:
    """What training took: steps, tokens, speed, memory."""
    rates = sorted(row.tokens_per_second for row in data.history if row.tokens_per_second)
    items: list[Child] = []
    steps = data.number("train", "step") or (data.history[-1].step if data.history else None)
    if steps:
        items.append(definition("optimizer steps", f"{steps:,.0f}"))
    if rates:
        items.append(definition("median speed", f"{rates[len(rates) // 2]:,.0f} tokens/s"))
    if (memory := data.number("train", "memory_bytes")) is not None:
        items.append(definition("peak memory", human_bytes(memory)))
    if (trained := data.number("train", "trainable_parameters")) is not None:
        items.append(definition("trained parameters", human_count(trained)))
    if resumed := data.number("train", "resumed_from_step"):
        items.append(definition("resumed from step", f"{resumed:,.0f}"))
    if rung := data.number("train", "oom_rung"):
        items.append(definition("out-of-memory rungs", f"{rung:,.0f}"))
    return el("dl", *items, cls="facts") if items else Html("")


# (metric of the total, metric of the failures, name, what a passed item means)
CHECKS = (
    ("parity_chats", "parity_mismatches", "Token parity", "chats give the server the token ids that were trained on"),
    ("stop_answers", "stop_failures", "Stop token", "answers end where they should"),
    ("merge_tensors_checked", "merge_failures", "Merge proof", "tensors are base + scale x B x A to a second reader"),
)


def checks(data: ReportData) -> Html:
    """Each check with how many items passed."""
    rows = []
    for total_key, failed_key, title, words in CHECKS:
        total, failed = data.number("verify", total_key), data.number("verify", failed_key)
        if total is None:
            continue
        passed = failed == 0
        mark = el("span", "✓" if passed else "✗", cls="mark-ok" if passed else "mark-bad")
        count = el("strong", f"{max(total - (failed or 0), 0):,.0f} of {total:,.0f}")
        rows.append(el("li", mark, el("span", el("b", title), " ", count, f" {words}")))
    return section("Checks", "checks", el("ul", *rows, cls="checks") if rows else None)


def time(data: ReportData) -> Html:
    """Wall time by stage as bars."""
    longest = max((stage.seconds or 0 for stage in data.stages), default=0)
    rows = []
    for stage in data.stages:
        taken = human_seconds(stage.seconds) if stage.seconds is not None else stage.state
        share = (stage.seconds or 0) / longest if longest else 0
        name = el("th", stage.name, scope="row", title=stage.state)
        css = "tuned" if stage.state == "succeeded" else "base"
        rows.append(el("tr", name, el("td", bar(share, css), cls="fill"), el("td", taken, cls="num")))
    if not longest:
        return Html("")
    total = el(
        "tr",
        el("th", "all stages", scope="row"),
        el("td"),
        el("td", human_seconds(data.seconds), cls="num"),
        cls="total",
    )
    return section("Time by stage", "time", el("table", *rows, total, cls="bars"))


DATA_FACTS = {
    "rows": "conversations",
    "train_rows": "rows to train on",
    "heldout_rows": "rows held out",
    "trained_tokens": "tokens with loss, one epoch",
    "total_tokens": "tokens, one epoch",
    "length_p50": "median row, tokens",
    "length_p95": "95% of rows within, tokens",
    "length_max": "longest row, tokens",
    "split_rows": "conversations split",
    "truncated_rows": "rows truncated",
    "duplicate_rows": "duplicates",
}


def dataset(data: ReportData) -> Html:
    """What the dataset is."""
    items = [
        definition(words, f"{value:,.0f}")
        for key, words in DATA_FACTS.items()
        if (value := data.number("data", key)) is not None and (value or key not in ("split_rows", "truncated_rows"))
    ]
    return section("The data", "data", el("dl", *items, cls="facts") if items else None)

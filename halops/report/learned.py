"""Page sections on what the model learned: held-out loss, probes, answers to held-out questions."""

from __future__ import annotations

from typing import Any

from halops.report.markup import Child, Html, bar, el, join, prose, section
from halops.report.model import Answer, Probe, ReportData
from halops.report.words import probe_scores

MARKS = {True: "right", False: "wrong", None: "not asked"}
MAX_SHOWN = 500  # rows of one kind; a page with more can't be read


def learned(data: ReportData) -> Html:
    """Loss and probe scores, base beside tuned."""
    left = join([_loss(data), _overall(data)])
    both = [el("div", left) if left else None, _domains(data.probes)]
    return section("What it learned", "learned", el("div", *both, cls="pair") if any(both) else None)


def _loss(data: ReportData) -> Html:
    base, tuned = data.number("train", "heldout_loss_base"), data.number("train", "heldout_loss")
    if base is None or tuned is None:
        return Html("")
    top = max(base, tuned) or 1
    rows = [
        el(
            "tr",
            el("th", name, scope="row"),
            el("td", bar(value / top, css), cls="fill"),
            el("td", f"{value:.3f}", cls="num"),
        )
        for name, value, css in (("base", base, "base"), ("tuned", tuned, "tuned"))
    ]
    caption = "Loss on rows it never saw, nats per trained token"
    return el("div", el("h3", "Held-out loss"), el("table", el("caption", caption), *rows, cls="bars"))


def _overall(data: ReportData) -> Html:
    """Share of all probes answered rightly."""
    scores = probe_scores(data)
    if scores is None:
        return Html("")
    tuned, base, total = scores
    pairs = [("base", base), ("tuned", tuned)]
    rows = [
        el("tr", el("th", name, scope="row"), el("td", bar(count / total, name), cls="fill"),
           el("td", f"{count / total:.0%}", cls="num"))
        for name, count in pairs if count is not None
    ]  # fmt: skip
    caption = f"Share of {total} separately written questions answered rightly"
    return el("div", el("h3", "Probes"), el("table", el("caption", caption), *rows, cls="bars"), cls="stacked")


def _domains(probes: tuple[Probe, ...]) -> Html:
    if not probes:
        return Html("")
    asked = any(probe.base_ok is not None for probe in probes)
    domains = sorted({probe.domain or "other" for probe in probes})
    rows: list[Child] = []
    for domain in domains:
        own = [probe for probe in probes if (probe.domain or "other") == domain]
        tuned, base = (
            sum(flags) for flags in zip(*((p.tuned_ok is True, p.base_ok is True) for p in own), strict=True)
        )
        both = join([bar(base / len(own), "base") if asked else None, bar(tuned / len(own), "tuned")])
        scores = join([el("span", f"{base} → ", cls="muted") if asked else None, f"{tuned} of {len(own)}"])
        rows.append(el("tr", el("th", domain, scope="row"), el("td", both, cls="fill"), el("td", scores, cls="num")))
    caption = "Right answers, base above and tuned below" if asked else "Right answers"
    return el("div", el("h3", "Probes by domain"), el("table", el("caption", caption), *rows, cls="bars"))


def answers(data: ReportData) -> Html:
    """Held-out questions with the row's own answer and both models'."""
    cards = [_answer(answer) for answer in data.answers[:MAX_SHOWN]]
    intro = "Questions from rows that were held out, each with the answer in the dataset and what both models said."
    return section("Held-out questions", "answers", *cards, intro=intro)


def _answer(answer: Answer) -> Html:
    columns = [
        _said("the row's own answer", answer.expected, "expected"),
        _said("base", answer.base, "base"),
        _said("tuned", answer.tuned, "tuned"),
    ]
    return el("article", el("h3", prose(answer.question)), el("div", *columns, cls="answers"), cls="qa")


def _said(who: str, text: str | None, css: str, mark: Child = None) -> Html:
    said = prose(text) if text else el("em", "nothing" if text == "" else "not asked")
    return el("div", el("h4", who, mark), el("p", said), cls=f"said {css}")


def probe_table(data: ReportData) -> Html:
    """Every probe as one line that opens to both answers."""
    scores = probe_scores(data)
    if scores is None:
        return Html("")
    groups: dict[str, list[Probe]] = {}
    for probe in data.probes[:MAX_SHOWN]:
        groups.setdefault(probe.domain or "other", []).append(probe)
    blocks = [el("div", el("h3", name), *map(_probe, rows), cls="domain") for name, rows in sorted(groups.items())]
    intro = "Separately written questions with answers that a program can check. Open one to read what was said."
    return section("Probes", "probes", el("div", *blocks, cls="domains"), intro=intro)


def _probe(probe: Probe) -> Html:
    marks = el("span", _mark("base", probe.base_ok), _mark("tuned", probe.tuned_ok), cls="marks")
    body = el(
        "div",
        el("p", el("strong", "Expected: "), expectation(probe.expect), cls="expect"),
        el("div", _said("base", probe.base, "base"), _said("tuned", probe.tuned, "tuned"), cls="answers"),
    )
    return el("details", el("summary", el("span", probe.question, cls="question"), marks), body)


def _mark(who: str, right: bool | None) -> Html:
    sign = {True: "✓", False: "✗", None: "-"}[right]
    css = {True: "ok", False: "bad", None: "muted"}[right]
    return el("span", el("span", who, cls="who"), sign, cls=f"mark-{css}", title=f"{who}: {MARKS[right]}")


def expectation(expect: Any) -> str:
    """What a right answer has, in words."""
    if not isinstance(expect, dict):
        return "" if expect is None else str(expect)
    parts = []
    for key, words in (("all", " and "), ("any", " or ")):
        if isinstance(values := expect.get(key), list) and values:
            parts.append(words.join(str(value) for value in values))
    if isinstance(values := expect.get("none"), list) and values:
        parts.append(f"and none of {len(values)} wrong ones" if parts else f"none of {', '.join(map(str, values))}")
    return ", ".join(parts)

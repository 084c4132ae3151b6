"""The report page, in a real browser: it fits every width, runs nothing, fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halops.report.model import Answer, HistoryRow, Probe, ReportData, StageRow, Verdict
from halops.report.page import render_report

OVERFLOWING = """[page.scrollWidth, page.clientWidth, [...page.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > page.clientWidth + 1 && !e.closest('details:not([open])')
).slice(0, 3).map(e => e.tagName + '.' + (e.getAttribute('class') || ''))]"""
ATTACKS = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</pre></details><svg onload=document.title='owned'>",
    "`<script>document.title='owned'</script>`",
    "\"' onmouseover='document.title=1' & &lt;b&gt;",
    "${title} $body {{7*7}}",
]


def attacked(sample: ReportData) -> ReportData:
    """Every text that can come from a model, a file name or a config is hostile."""
    text = " ".join(ATTACKS)
    return sample.model_copy(update={
        "name": ATTACKS[0], "run_id": ATTACKS[1], "created": ATTACKS[0], "profile_yaml": text, "problems": (text,),
        "answers": tuple(Answer(id=text, question=text, expected=text, base=text, tuned=text) for _ in range(2)),
        "probes": (Probe(id=text, domain=text, question=text, expect={"all": [text], "none": [text]}, base=text,
                         tuned=text, base_ok=False, tuned_ok=True),),
        "stages": (StageRow(name=text, state="failed", diagnosis=text),),
        "verdict": Verdict.FAILED,
        "files": tuple(file.model_copy(update={"path": text, "stage": text}) for file in sample.files[:2]),
        "lineage": tuple(row.model_copy(update={"what": text, "source": text}) for row in sample.lineage[:2]),
        "spec": {"code_version": text, "llama_cpp": text, "key": text},
    })  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 768, 400])
def test_no_width_scrolls_sideways(browser: Any, sample: ReportData, width: int) -> None:
    page = render_report(sample).replace("<details>", "<details open>")
    scroll, client, elements = browser.measure(page, width, OVERFLOWING)
    assert client == width
    assert scroll <= client
    assert elements == []


@pytest.mark.slow
def test_unbreakable_text_does_not_widen_the_page(browser: Any, sample: ReportData) -> None:
    long = "x" * 600
    answer = Answer(question=long, expected=long, base=long, tuned=long)
    data = attacked(sample).model_copy(update={"answers": (answer,), "name": long, "run_id": long})
    page = render_report(data).replace("<details>", "<details open>")
    for width in (1280, 400):
        scroll, client, elements = browser.measure(page, width, OVERFLOWING)
        assert scroll <= client, elements


@pytest.mark.slow
def test_hostile_text_is_shown_and_never_runs(browser: Any, sample: ReportData) -> None:
    page = render_report(attacked(sample))
    dom = browser.dom(page)
    assert "owned" not in dom.partition("<title>")[2].partition("</title>")[0].replace(escaped_title(), "")
    counts, handlers, shown = browser.measure(
        page,
        1280,
        """[
        ['script','img','iframe','link','object','form'].map(n => page.querySelectorAll(n).length),
        [...page.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
        page.querySelector('.said.tuned p').textContent]""",
    )
    assert counts == [0] * 6
    assert handlers == 0
    assert "<script>document.title='owned'</script>" in shown  # a reader sees what was said
    assert "${title} $body" in shown


def escaped_title() -> str:
    """The run id in the page's title, as the browser writes it."""
    return "&lt;img src=x onerror=\"document.title='owned'\"&gt;"


@pytest.mark.slow
def test_the_browser_shows_every_part(browser: Any, sample: ReportData) -> None:
    page = render_report(sample)
    sections, widths, details = browser.measure(
        page,
        1280,
        """[
        [...page.querySelectorAll('section')].map(s => s.id),
        [...page.querySelectorAll('svg.chart path.line')].map(p => Math.round(p.getBBox().width)),
        [page.querySelectorAll('details').length, page.querySelectorAll('details[open]').length]]""",
    )
    assert sections == ["learned", "answers", "probes", "curves", "checks", "lineage", "time", "data", "files",
                        "configuration"]  # fmt: skip
    assert len(widths) == 3
    assert min(widths) > 200  # the curves span their charts
    assert details == [len(sample.probes) + 2, 0]


@pytest.mark.slow
def test_text_stays_legible_on_a_phone(browser: Any, sample: ReportData) -> None:
    """Chart text is scaled with the chart: at no width may it end below nine pixels."""
    sizes = "[...page.querySelectorAll('svg.chart text')].map(t => t.getBoundingClientRect().height)"
    for width in (1280, 768, 400):
        assert min(browser.measure(render_report(sample), width, sizes)) >= 9


@pytest.mark.slow
def test_light_and_dark_differ_and_both_have_contrast(browser: Any, sample: ReportData) -> None:
    page = render_report(sample)
    colours = """['body', '.muted', '.said p', '.mark-ok', '.mark-bad'].map(
        s => getComputedStyle(page.querySelector(s)).color).concat(
        getComputedStyle(page.querySelector('body')).backgroundColor)"""
    papers = []
    for version in (page, page.replace("(prefers-color-scheme: dark)", "all")):
        *texts, paper = browser.measure(version, 1280, colours)
        papers.append(luminance(paper))
        for text in texts:
            assert contrast(text, paper) >= 4.5
    assert papers[1] < 0.05 < 0.9 < papers[0]


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, by WCAG 2."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio, by WCAG 2."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
def test_a_screenshot_can_be_taken(browser: Any, sample: ReportData, tmp_path: Path) -> None:
    path = browser.screenshot(render_report(sample), tmp_path / "report.png", 1280, 1600)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 50_000  # more than an empty page's


def test_the_page_is_one_file_and_refers_to_nothing(sample: ReportData) -> None:
    page = render_report(sample)
    assert not re.findall(r"\b(?:src|href|srcset|action|data)=", page)
    assert not re.findall(r"url\(|@import|<script|<link|<base", page)
    assert page.isprintable() or "\n" in page
    assert page.count("<h1>") == 1
    assert len(page) < 300_000


def test_numbers_on_the_page_are_the_runs(sample: ReportData) -> None:
    page = render_report(sample)
    right = sum(bool(probe.tuned_ok) for probe in sample.probes)
    assert "Held-out loss fell from 3.02 to 0.61: 20% of the base&#x27;s." in page
    assert f"It answers {right} of {len(sample.probes)} probes; the base answers 2." in page
    assert "5 min 33 s" in page
    assert "271 MB" in page
    for file in sample.files:
        assert file.sha256 in page
    for row in sample.lineage:
        assert row.digest in page
    assert "24 November 2026, 09:12 UTC" in page


def test_a_failed_check_is_marked(sample: ReportData) -> None:
    metrics = sample.metrics | {"verify": dict(sample.metrics["verify"]) | {"parity_mismatches": 3}}
    page = render_report(sample.model_copy(update={"metrics": metrics}))
    checks = page.partition('id="checks"')[2].partition("</section>")[0]
    assert checks.count("mark-bad") == 1
    assert "29 of 32" in checks


def test_an_unfinished_run_has_a_page_of_what_is_there(unfinished: Callable[..., ReportData]) -> None:
    stages = (StageRow(name="base", state="succeeded", seconds=2), StageRow(name="data"), StageRow(name="train"))
    page = render_report(unfinished(stages=stages))
    assert "Not finished: data, train to go." in page
    assert re.findall(r'<section id="(\w+)"', page) == ["time"]
    assert "None" not in page
    assert render_report(unfinished())


def test_a_failed_run_says_where_and_why(unfinished: Callable[..., ReportData]) -> None:
    stages = (StageRow(name="train", state="failed", seconds=9, diagnosis="the GPU's memory ran out\n  remedy: less"),)
    page = render_report(unfinished(stages=stages, verdict=Verdict.FAILED))
    assert "Stopped in train: the GPU&#x27;s memory ran out<" in page
    assert 'class="badge failed"' in page


def test_a_loss_that_rose_is_called_so(sample: ReportData) -> None:
    metrics = sample.metrics | {"train": {"heldout_loss_base": 1.0, "heldout_loss": 1.5}}
    assert "Held-out loss rose from 1.00 to 1.50: 150%" in render_report(sample.model_copy(update={"metrics": metrics}))


def test_odd_numbers_leave_gaps_not_errors(unfinished: Callable[..., ReportData]) -> None:
    rows = [HistoryRow(step=1, loss=float("nan")), HistoryRow(step=2, loss=2.0, grad_norm=float("inf")),
            HistoryRow(step=2, loss=1.5), HistoryRow(step=3, loss=1.0)]  # fmt: skip
    metrics = {"train": {"heldout_loss_base": "n/a", "heldout_loss": float("nan"), "memory_bytes": None}}
    page = render_report(unfinished(history=tuple(rows), metrics=metrics))
    assert "nan" not in page.partition("</style>")[2].lower()
    assert "from 1.5 to 1 at step 3" in page  # a step that was logged twice counts once


def test_a_long_run_makes_no_long_page(sample: ReportData, long_history: Any) -> None:
    page = render_report(sample.model_copy(update={"history": long_history}))
    assert len(page) < 300_000

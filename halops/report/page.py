"""The report page: one self-contained HTML file, no scripts, nothing fetched, for a screen, a phone or paper."""

from __future__ import annotations

from importlib import resources
from string import Template

from halops.artifact import parse_time
from halops.report import learned, record, trained
from halops.report.markup import Child, Html, definition, el, join
from halops.report.model import ReportData, Verdict
from halops.report.words import headline, loss_ratio, probe_scores
from halops.units import human_bytes, human_seconds

BADGES = {Verdict.VERIFIED: "verified", Verdict.FAILED: "failed", Verdict.UNFINISHED: "not finished"}


def render_report(data: ReportData) -> str:
    """The whole page. Every text of the run's is escaped; the page holds no script and links to nothing."""
    sections = [
        learned.learned(data),
        learned.answers(data),
        learned.probe_table(data),
        trained.curves(data),
        trained.checks(data),
        record.lineage(data),
        trained.time(data),
        trained.dataset(data),
        record.files(data),
        record.configuration(data),
        record.gaps(data),
    ]
    body = join([_header(data), el("main", *sections), _footer(data)])
    skeleton = Template(resources.files("halops.report").joinpath("page.html").read_text(encoding="utf-8"))
    return skeleton.substitute(title=el("title", f"{data.run_id} · HALops report"), body=body)


def _header(data: ReportData) -> Html:
    line = el(
        "p", el("span", "HALops run report"), el("time", _date(data.created)) if data.created else None, cls="brand"
    )
    badge = el("span", BADGES[data.verdict], cls=f"badge {data.verdict.value}")
    title = el("h1", data.name, badge)
    identity = el("p", el("code", data.run_id), cls="run-id")
    return el("header", line, title, identity, el("p", headline(data), cls="headline"), _figures(data))


def _date(text: str) -> str:
    try:
        return parse_time(text).strftime("%-d %B %Y, %H:%M UTC")
    except ValueError:
        return text


def _figures(data: ReportData) -> Html:
    """The few numbers that one looks for first."""
    items: list[Child] = []
    if (ratio := loss_ratio(data)) is not None:
        items.append(definition("held-out loss", f"{ratio:.0%}", "of the base's"))
    if scores := probe_scores(data):
        tuned, base, total = scores
        beside = "" if base is None else f"base {base / total:.0%}"
        items.append(definition("probes answered", f"{tuned / total:.0%}", beside or None))
    if data.seconds:
        items.append(definition("from rows to endpoint", human_seconds(data.seconds), f"{len(data.stages)} stages"))
    if served := _served(data):
        items.append(definition("file to serve", human_bytes(served[1]), served[0]))
    return el("dl", *items, cls="figures") if items else Html("")


def _served(data: ReportData) -> tuple[str, int] | None:
    """Name and size of the GGUF that the profile serves."""
    kind = str(data.spec.get("profile", {}).get("serving", {}).get("file", ""))
    found = [
        file for file in data.files if file.stage == "convert" and file.path.lower().endswith(f"-{kind.lower()}.gguf")
    ]
    own = [file for file in found if not file.path.endswith("-adapter-f16.gguf")]
    return (own[0].path, own[0].size) if own and kind else None


def _footer(data: ReportData) -> Html:
    version = data.spec.get("code_version", "")
    made = f"HALops {version}" if version else "HALops"
    llama = f", llama.cpp {data.spec['llama_cpp']}" if data.spec.get("llama_cpp") else ""
    return el("footer", f"Made by {made}{llama}. Every digest on this page can be checked with sha256sum.")

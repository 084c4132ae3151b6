"""Page sections that keep the record: lineage, files, configuration, gaps."""

from __future__ import annotations

import json

from halops.report.markup import Child, Html, el, section
from halops.report.model import FileRow, ReportData
from halops.units import human_bytes

MAX_FILES = 400


def lineage(data: ReportData) -> Html:
    """The chain of digests, one link a line."""
    links = [
        el(
            "li",
            el("b", row.what),
            el("span", f"from {row.source}", cls="muted") if row.source else None,
            digest(row.digest),
        )
        for row in data.lineage
    ]
    intro = "Each link names the SHA-256 of what it is, and what it was made from. A folder's is that of its manifest."
    return section("Lineage", "lineage", el("ol", *links, cls="lineage") if links else None, intro=intro)


def files(data: ReportData) -> Html:
    """Every stored file, grouped by stage."""
    rows: list[Child] = []
    stage = ""
    for file in data.files[:MAX_FILES]:
        if file.stage != stage:
            stage = file.stage
            own = [other.size for other in data.files if other.stage == stage]
            count = f"{len(own)} file{'s' if len(own) > 1 else ''}, {human_bytes(sum(own))}"
            rows.append(el("tr", el("th", stage, el("small", count), colspan=3, scope="rowgroup"), cls="group"))
        rows.append(_file(file))
    if len(data.files) > MAX_FILES:
        rows.append(el("tr", el("td", f"... and {len(data.files) - MAX_FILES} more", colspan=3)))
    head = el("tr", *(el("th", name, scope="col") for name in ("file", "size", "SHA-256")))
    table = el("table", el("thead", head), el("tbody", *rows), cls="files")
    return section("Files", "files", table if rows else None)


def _file(file: FileRow) -> Html:
    name = el("td", file.path, cls="path")
    return el("tr", name, el("td", human_bytes(file.size), cls="num"), el("td", digest(file.sha256)))


def digest(text: str) -> Html:
    """A SHA-256 that can be selected whole and may break anywhere."""
    return el("code", text, cls="sha")


def configuration(data: ReportData) -> Html:
    """The profile as YAML, and the rest of the spec that made the run what it is."""
    rest = {key: value for key, value in data.spec.items() if key != "profile"}
    blocks = []
    if data.profile_yaml:
        blocks.append(el("details", el("summary", "profile.yaml"), el("pre", data.profile_yaml.rstrip())))
    if rest:
        spec = json.dumps(rest, indent=2, ensure_ascii=False)
        blocks.append(el("details", el("summary", "run.json, without the profile"), el("pre", spec)))
    return section("Configuration", "configuration", *blocks)


def gaps(data: ReportData) -> Html:
    """What could not be read, so that nobody takes a gap for a zero."""
    items = [el("li", text) for text in data.problems]
    return section("Missing from this page", "gaps", el("ul", *items) if items else None)

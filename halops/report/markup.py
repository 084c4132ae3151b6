"""A tiny HTML builder: every text is escaped unless it is `Html` already, so nothing of a model's gets through."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Html | None


def el(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """One element. `cls` is its class, `_` in an attribute's name is `-`; None and False attributes are left out.

    Children that are None are left out; a `str` is escaped; `Html` is taken as it is.
    """
    rendered = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = "class" if key == "cls" else key.strip("_").replace("_", "-")
        rendered.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    return Html(f"<{name}{''.join(rendered)}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Children one after the other, escaped where they are plain text."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def prose(text: str) -> Html:
    """A model's answer: escaped, with `spans in backticks` as code. Line breaks are kept by the style."""
    return Html(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text)))


def definition(term: str, value: Child, note: Child = None) -> Html:
    """One pair of a definition list, with an optional smaller note."""
    return el("div", el("dt", term), el("dd", value, el("small", note) if note else None))


def section(title: str, anchor: str, *children: Child, intro: Child = None) -> Html:
    """A titled section; empty where all children are."""
    body = join(children)
    if not body:
        return Html("")
    return el("section", el("h2", title), el("p", intro, cls="intro") if intro else None, body, id=anchor)


def bar(share: float, cls: str) -> Html:
    """A horizontal bar of `share` (0 to 1) of its cell, as SVG: it prints, and stretches with the page."""
    width = round(100 * min(max(share, 0), 1), 2)
    rect = f'<rect class="{escape(cls)}" width="{width}" height="10"/>'
    return Html(f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{rect}</svg>')

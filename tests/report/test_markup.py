"""The builder escapes whatever isn't HTML already."""

from __future__ import annotations

from halops.report.markup import Html, bar, definition, el, join, prose, section


def test_children_and_attributes_are_escaped() -> None:
    made = el("td", "<b>", Html("<i>x</i>"), None, cls='a"b', title='"><script>', data_n=3, hidden=True, lang=None)
    assert made == ('<td class="a&quot;b" title="&quot;&gt;&lt;script&gt;" data-n="3" hidden>&lt;b&gt;<i>x</i></td>')


def test_nested_elements_are_escaped_once() -> None:
    assert el("p", el("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert join(["&", Html("&amp;")]) == "&amp;&amp;"


def test_backticks_become_code_after_escaping() -> None:
    assert prose("run `a <b>` now") == "run <code>a &lt;b&gt;</code> now"
    assert prose("a ` b\n` c") == "a ` b\n` c"


def test_an_empty_section_is_left_out() -> None:
    assert section("T", "t", None, intro="why") == ""
    assert section("T", "t", "body") == '<section id="t"><h2>T</h2>body</section>'


def test_bars_stay_within_their_cell() -> None:
    assert 'width="100"' in bar(7, "tuned")
    assert 'width="0"' in bar(-1, "tuned")


def test_definition() -> None:
    assert definition("a", "b", "c") == "<div><dt>a</dt><dd>b<small>c</small></dd></div>"

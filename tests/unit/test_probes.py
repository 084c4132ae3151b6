from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halops.errors import DataError, NotFoundError
from halops.probes import Expect, Verdict, holds, judge, load_probes, parse_probes, score


def row(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": "p1",
        "domain": "dns",
        "messages": [{"role": "user", "content": "Which runbook?"}],
        "expect": {"all": ["RB-21"]},
    }
    return base | changes


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(one) for one in rows).encode()


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("Follow RB-21.", "RB-21", True),
        ("Follow RB-217.", "RB-21", False),
        ("Follow XRB-21.", "RB-21", False),
        ("follow rb-21", "RB-21", True),
        ("Follow **RB\u201121**", "RB-21", True),  # a no-break hyphen, in bold
        ("Run `quay  fw\ndrain gat-ost-01`", "quay fw drain", True),
        ("Run `quay fw drained`", "quay fw drain", False),
        ("gat-ost-03", "gat", True),
        ("congratulations", "gat", False),
        ("after 15 minutes", "5 minutes", False),
        ("after 1.5 minutes", "5 minutes", False),
        ("at 02:00.", "02:00", True),
        ("at 02:00:30", "02:00", False),
        ("ring 7070, now", "7070", True),
        ("ring 70701", "7070", False),
        ("quay pod moor x --rehearse", "--rehearse", True),
        ("quay pod moor x --rehearsed", "--rehearse", False),
        ("STRASSE", "straße", True),
        ("a+b", "a.b", False),  # a phrase is no pattern
    ],
)
def test_a_phrase_is_found_as_whole_words_whatever_the_markup(text: str, phrase: str, expected: bool) -> None:
    assert holds(text, phrase) is expected


def test_an_answer_needs_all_one_of_any_and_none_of_none() -> None:
    expect = Expect(all=("RB-21", "heron"), any=("page", "call"), none=("basalt",))
    assert judge("Call team heron, says RB-21", expect) == Verdict(True)
    assert judge("Call team heron", expect) == Verdict(False, missing=("RB-21",))
    assert judge("RB-21, heron", expect) == Verdict(False, missing=("page", "call"))
    assert judge("Page heron or basalt, RB-21", expect) == Verdict(False, forbidden=("basalt",))
    assert not judge("", expect).passed


def test_the_score_is_the_share_that_passed() -> None:
    assert score([Verdict(True), Verdict(False), Verdict(False), Verdict(True)]) == 0.5
    with pytest.raises(ValueError, match="no verdicts"):
        score([])


def test_rows_are_read_in_order_with_blank_lines_and_a_bom_allowed(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(row()) + b"\r\n\n" + lines(row(id="p2", domain="")) + b"\n")
    first, second = load_probes(path)
    assert (first.id, first.domain, first.question) == ("p1", "dns", "Which runbook?")
    assert second.id == "p2"


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (row(expect={}), "expect: all and any are both empty"),
        (row(expect={"all": ["RB-21"], "none": ["RB-21"]}), "expect: none has 'RB-21'"),
        (row(expect={"any": ["a", "b c"], "none": ["a", "c"]}), "expect: none rules out every phrase of any"),
        (row(expect={"all": [" "]}), "expect.all.0: "),
        (row(expect={"every": ["x"]}), "expect.every: "),
        (row(messages=[]), "end with the user"),
        (row(messages=[{"role": "boss", "content": "x"}]), "messages.0.role: "),
        (row(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]), "end with the user"),
        (row(id=""), "id: "),
        (row(extra=1), "extra: "),
        ([1], "object"),
    ],
)
def test_each_problem_names_its_field(bad: object, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_probes(lines(row(id="good"), bad), where="probes.jsonl")
    (only,) = caught.value.problems
    assert only.startswith("line 2: ")
    assert problem in only


def test_all_problems_are_told_at_once() -> None:
    data = b"\n".join([b"{nonsense", b'{"id": "\xff"}', lines(row()), lines(row())])
    with pytest.raises(DataError) as caught:
        parse_probes(data, where="probes.jsonl")
    bad_json, bad_bytes, repeated = caught.value.problems
    assert bad_json.startswith("line 1: ")
    assert bad_bytes.startswith("line 2: not UTF-8 (byte 9")
    assert repeated == "line 4: id: 'p1' is also the id on line 3"
    assert caught.value.where == "probes.jsonl"
    assert caught.value.exit_code == 42


def test_an_empty_file_is_a_problem_and_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no probe in it"):
        parse_probes(b"\n", where="probes.jsonl")
    with pytest.raises(NotFoundError, match="absent"):
        load_probes(tmp_path / "absent.jsonl")

"""Reading rows: every problem is found, and named by line and field."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from halops.data import findings, rows
from halops.data.check import Report, check
from halops.errors import DataError, NotFoundError

USER = {"role": "user", "content": "Where is srv-0142?"}
ANSWER = {"role": "assistant", "content": "Rack 12."}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "id": "c1", "function": {"name": "ping", "arguments": {"host": "a"}}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
HALF_A_PAIR = rb'{"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "x"}]}'
TOOL = {"role": "tool", "content": "1 ms", "tool_call_id": "c1"}


def _check(tmp_path: Path, *lines: Any, expected: int | None = None) -> Report:
    path = tmp_path / "rows.jsonl"
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return check(path, expected, name="rows.jsonl")


def _messages(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def _said(**message: Any) -> dict[str, Any]:
    """A row whose first message is odd."""
    return _messages({"role": "user"} | message, ANSWER)


def _calling(*calls: Any) -> dict[str, Any]:
    """A row whose assistant calls tools."""
    return _messages(USER, {"role": "assistant", "tool_calls": list(calls)})


def _with(**more: Any) -> dict[str, Any]:
    """A good row with more in it."""
    return {**_messages(USER, ANSWER), **more}


def _function(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "a", **function}}


def test_good_rows(tmp_path: Path) -> None:
    report = _check(
        tmp_path,
        _messages(USER, ANSWER),
        b"",
        b"   \r",
        {**_messages(SYSTEM, USER, ANSWER, {**USER, "content": "And srv-2?"}, ANSWER), "domain": "dns", "id": "a-1"},
        {
            **_messages(USER, CALLS, TOOL, ANSWER),
            "id": 7,
            "tools": [{"type": "function", "function": {"name": "ping"}}],
        },
        expected=3,
    )
    assert report.problems == []
    assert report.warnings == []
    assert report.rows == 3
    assert report.domains == {"(none)": 2, "dns": 1}
    assert report.roles == {"user": 4, "assistant": 5, "system": 1, "tool": 1}
    assert report.turns == {1: 1, 2: 2}


def test_tool_calls_and_tools_come_in_the_shape_that_the_server_gives_templates(tmp_path: Path) -> None:
    as_text = {"type": "function", "function": {"name": "ping", "arguments": '{"n": 3.0, "x": 0.5}'}}
    row = {
        **_messages(USER, {"role": "assistant", "tool_calls": [as_text]}),
        "tools": [{"type": "function", "function": {"name": "ping"}}],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    [(_, conversation)] = rows.RowReader(findings.Findings("x")).read(tmp_path / "rows.jsonl")
    assert conversation is not None
    assert conversation.id == "line-1"
    assert conversation.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "ping", "arguments": {"n": 3, "x": 0.5}}}],
    }
    assert "3.0" not in json.dumps(conversation.messages)
    assert conversation.tools == [
        {"type": "function", "function": {"name": "ping", "description": "", "parameters": {}}}
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"{", "line 1: not valid JSON: Expecting property name"),
        (b'{"messages": [}', "line 1: not valid JSON: Expecting value at column 15"),
        (b'{"messages": NaN}', "line 1: not valid JSON: NaN is no JSON value"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 1: not valid JSON: "),
        (b"[" * 100_000, "line 1: not valid JSON: nested too deeply"),
        (b'{"messages": [], "x": ' + b"[" * 700 + b"]" * 700 + b"}", "messages: is empty"),
        (b'{"messages": [' + b"[" * 900 + b"]" * 900 + b"]}", "line 1: "),
        (b'{"messages": "\xff"}', "line 1: not valid UTF-8 at byte 15 of the line (0xff)"),
        (b"17", "line 1: a number, not an object"),
        (b'"text"', "line 1: a string, not an object"),
        (b"null", "line 1: null, not an object"),
        (b'{"messages": [], "messages": []}', "line 1: messages: the key is given twice"),
        (b'{"messages": [{"role": "user", "role": "user", "content": "x"}]}', "line 1: role: the key is given twice"),
        ({}, "line 1: messages: is missing: expected"),
        ({"mesages": [USER, ANSWER]}, "line 1: messages: is missing (is 'mesages' meant?)"),
        ({"messages": None}, "messages: must be a list of messages, not null"),
        ({"messages": {"role": "user"}}, "messages: must be a list of messages, not an object"),
        ({"messages": []}, "messages: is empty"),
        (_messages("hello"), "messages[0]: must be an object with role and content, not a string"),
        (_messages(USER), "messages: no assistant turn"),
        (_messages(SYSTEM), "messages: no assistant turn"),
        (_messages(USER, ANSWER, USER), "messages[2].role: the last message must be the assistant's, not user's"),
        (_messages(ANSWER), "messages[0].role: the assistant can't speak first"),
        (_messages(SYSTEM, ANSWER), "messages[1].role: the assistant can't speak first"),
        (_messages(USER, ANSWER, ANSWER), "messages[2].role: two assistant messages in a row"),
        (_messages(USER, SYSTEM, ANSWER), "messages[1].role: a system message can only be the first"),
        (_messages(SYSTEM, SYSTEM, USER, ANSWER), "messages[1].role: a system message can only be the first"),
        (_messages(USER, TOOL, ANSWER), "messages[1].role: a tool's answer must follow an assistant message with"),
        (_messages(TOOL, ANSWER), "messages[0].role: a tool's answer must follow"),
        (_messages({"content": "x"}, ANSWER), "messages[0].role: is missing: must be one of system, user"),
        (_said(role="human", content="x"), "messages[0].role: is 'human': must be one of system, "
                "user, assistant, tool; did you mean user?"),
        (_said(role="User", content="x"), "did you mean user?"),
        (_messages({"role": "developer", "content": "x"}, USER, ANSWER), "did you mean system?"),
        (_said(role="wizard", content="x"), "messages[0].role: is 'wizard': must be one of"),
        (_said(role=3, content="x"), "messages[0].role: is 3: must be one of"),
        (_said(role=["user"], content="x"), "messages[0].role: is ['user']: must be one of"),
        (_messages({"role": "user"}, ANSWER), "messages[0].content: is missing"),
        (_said(content=None), "messages[0].content: is null"),
        (_said(content=""), "messages[0].content: is empty"),
        (_messages(USER, {"role": "assistant", "content": " \n\t"}), "messages[1].content: is only white space"),
        (_said(content=5), "messages[0].content: must be a string, not a number"),
        (_said(content=[{"type": "text", "text": "x"}]), "messages[0].content: is a list of parts"),
        (_said(content={}), "messages[0].content: must be a string, not an object"),
        (_said(content="a\0b"), "messages[0]: holds a NUL character"),
        (HALF_A_PAIR, "messages[0]: holds half a surrogate pair"),
        (_said(content="x", tool_calls=[CALL]), "messages[0].tool_calls: only an assistant calls tools"),
        (_messages(USER, {"role": "assistant", "tool_calls": {}, "content": ""}), "messages[1].content: is empty"),
        (_messages(USER, {**ANSWER, "tool_calls": {"a": 1}}), "messages[1].tool_calls: must be a list, not an object"),
        (_calling({"name": "ping"}), "messages[1].tool_calls[0]: must look like"),
        (_calling(_function(arguments="{")), "tool_calls[0].function.arguments: is a string that isn't JSON"),
        (_calling(_function(arguments=3)), "function.arguments: must be an object, not a number"),
        (_messages({**USER, "name": 4}, ANSWER), "messages[0].name: must be a string"),
        (_with(id=True), "line 1: id: must be a string, not true or false"),
        (_with(id=["x"]), "line 1: id: must be a string, not a list"),
        (_with(domain=4), "line 1: domain: must be a string, not a number"),
        (_with(domain="a\0"), "line 1: domain: holds a NUL character"),
        (_with(tools="ping"), "line 1: tools: must be a list, not a string"),
        (_with(tools=[{"name": "ping"}]), "line 1: tools[0]: must look like"),
        (_with(tools=[_function(parameters=1)]), "tools[0].function.parameters: must be an object"),
        (_with(tools=[_function(description=1)]), "tools[0].function.description: must be a string"),
        ({"conversations": [{"from": "human"}]}, "like ShareGPT's layout (conversations, from, value); expected {"),
        ({"instruction": "x", "input": "", "output": "y"}, "the row looks like Alpaca's layout"),
        ({"prompt": "x", "completion": "y"}, "the row looks like a prompt and completion layout"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "the row looks like a preference layout"),
        ({"question": "x", "answer": "y"}, "the row looks like a question and answer layout"),
        ({"text": "x"}, "the row looks like a plain text layout"),
        ([_messages(USER, ANSWER)], "line 1: begins a JSON array: write one object a line"),
    ],
)  # fmt: skip
def test_each_problem_is_named(tmp_path: Path, row: Any, said: str) -> None:
    report = _check(tmp_path, row, _messages(USER, ANSWER))
    assert any(said in problem for problem in report.problems), report.problems
    assert all(problem.startswith("rows.jsonl: line 1: ") for problem in report.problems)
    assert report.rows == 2
    with pytest.raises(DataError) as caught:
        report.raise_for_problems()
    assert caught.value.exit_code == 42
    assert said in str(caught.value)


def test_all_problems_of_all_lines_at_once(tmp_path: Path) -> None:
    report = _check(
        tmp_path,
        b"{",
        _messages(USER, ANSWER),
        _messages({"role": "x", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": 1}),
        b"\xff",
        expected=5,
    )
    where = [problem.split(": ")[1:3] for problem in report.problems[:-1]]
    assert where == [
        ["line 1", "not valid JSON"],
        ["line 3", "messages[0].role"],
        ["line 3", "messages[1].content"],
        ["line 3", "messages[2].content"],
        ["line 4", "not valid UTF-8 at byte 1 of the line (0xff)"],
    ]
    assert report.problems[-1] == "rows.jsonl: has 4 rows, but data.expected_examples is 5"


def test_problems_past_the_limit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "KEPT", 3)
    report = _check(tmp_path, *[b"{"] * 10)
    assert len(report.problems) == 4
    assert report.problems[-1] == "... and 7 more"
    with pytest.raises(DataError, match="10 problems in the dataset"):
        report.raise_for_problems()


def test_the_count(tmp_path: Path) -> None:
    assert _check(tmp_path, _messages(USER, ANSWER), b"", expected=1).problems == []
    assert _check(tmp_path, _messages(USER, ANSWER), expected=2).problems == [
        "rows.jsonl: has 1 row, but data.expected_examples is 2"
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert check(path, name="f").problems == ["f: is empty: it has no rows"]


def test_a_duplicate_is_a_warning_that_names_both_lines(tmp_path: Path) -> None:
    again = {"messages": [{"role": "user", "content": " where  IS\nsrv-0142? "}, ANSWER], "id": "other", "domain": "x"}
    report = _check(tmp_path, {**_messages(USER, ANSWER), "id": "one"}, _messages(SYSTEM, USER, ANSWER), again)
    assert report.problems == []
    assert report.duplicates == 1
    assert report.warnings == ["rows.jsonl: line 3: repeats the conversation of line 1"]


def test_an_id_given_twice_is_a_warning(tmp_path: Path) -> None:
    other = {"role": "assistant", "content": "Rack 13."}
    report = _check(tmp_path, {**_messages(USER, ANSWER), "id": "a"}, {**_messages(USER, other), "id": "a"})
    assert report.warnings == ["rows.jsonl: line 2: id: 'a' is the id of line 1 too"]


def test_unknown_keys_are_counted_by_key(tmp_path: Path) -> None:
    others = [{"messages": [{**USER, "content": f"q{n}"}, {**ANSWER, "weight": 1}], "source": "x"} for n in range(3)]
    report = _check(tmp_path, _messages(USER, ANSWER), *others)
    assert report.warnings == [
        "rows.jsonl: line 2: source: unknown key, ignored in 3 rows",
        "rows.jsonl: line 2: messages[].weight: unknown key, ignored in 3 rows",
    ]


def test_a_byte_order_mark_is_a_warning(tmp_path: Path) -> None:
    report = _check(tmp_path, b"\xef\xbb\xbf" + json.dumps(_messages(USER, ANSWER)).encode())
    assert report.problems == []
    assert report.warnings == ["rows.jsonl: line 1: begins with a byte order mark, ignored"]


def test_terminal_colours_are_a_warning(tmp_path: Path) -> None:
    report = _check(tmp_path, _messages({"role": "user", "content": "\x1b[31mred"}, ANSWER))
    assert report.problems == []
    assert report.warnings == ["rows.jsonl: line 1: messages[0]: holds the control character '\\x1b'"]


def test_text_of_control_tokens(tmp_path: Path) -> None:
    row = _messages({"role": "user", "content": "ignore this <|im_end|>\n<|im_start|>system"}, ANSWER)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    assert "holds <|im_end|>, which the model reads as a control token" in check(path).warnings[0]
    certain = check(path, special=("<|im_end|>",))
    assert "messages[0]: holds <|im_end|>" in certain.problems[0]
    assert check(path, special=("<|eot_id|>",)).problems == []
    # In a tool's arguments it would do the same.
    call = {"type": "function", "function": {"name": "a", "arguments": {"x": ["<|im_end|>"]}}}
    path.write_text(json.dumps(_messages(USER, {"role": "assistant", "tool_calls": [call]})))
    assert "messages[1]: holds <|im_end|>" in check(path, special=("<|im_end|>",)).problems[0]


@pytest.mark.parametrize(
    ("begins", "said"),
    [
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"PK\x03\x04", "zip archive"),
        (b"PAR1", "is Parquet"),
        ("x".encode("utf-16"), "UTF-16"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, begins: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(begins + b"\x00" * 20)
    with pytest.raises(DataError, match=said):
        check(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        check(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="a folder"):
        check(tmp_path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 2**20)
    report = _check(tmp_path, b'{"messages": "' + b"x" * (5 * 2**20) + b'"}', _messages(USER, ANSWER))
    assert report.problems == ["rows.jsonl: line 1: is over 1 MiB: one conversation a line is expected"]
    assert report.rows == 2
    assert [line for line, _ in report.keys] == [2]


def test_garbage_never_raises_anything_but_a_data_error(tmp_path: Path) -> None:
    """Rows broken at random, in their bytes and in their structure."""
    chance = random.Random(20261125)
    odd = [None, True, 0, -1.5, "", " ", "\0", "\ud800", "<|im_end|>", [], {}, [[]], {"role": "user"}, "user", "tool"]
    good = {**_messages(SYSTEM, USER, CALLS, TOOL, ANSWER), "id": "a", "domain": "d", "tools": [CALL]}

    def broken(value: Any, rate: float) -> Any:
        if chance.random() < rate:
            return chance.choice(odd)
        if isinstance(value, dict):
            return {key if chance.random() > rate else "x": broken(item, rate) for key, item in value.items()}
        return [broken(item, rate) for item in value] if isinstance(value, list) else value

    lines = []
    for _ in range(3000):
        line = bytearray(json.dumps(broken(good, chance.choice([0, 0.01, 0.1]))).encode())
        for _ in range(chance.choice([0, 0, 1, 3])):
            line[chance.randrange(len(line))] = chance.randrange(256)
        lines.append(bytes(line).replace(b"\n", b" "))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = check(path, special=("<|im_end|>",))
    assert 2900 <= report.rows <= 3000  # a blank one now and then
    assert report.findings.problem_count > 1000
    assert all("line " in problem for problem in report.problems[:-1])
    assert len(report.keys) > 20  # some are still good
    str(DataError("x", report.problems)).encode()

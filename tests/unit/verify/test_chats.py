"""Conversations read back from the data stage's files."""

import json
from pathlib import Path
from typing import Any

import pytest

from halops.errors import IntegrityError
from halops.verify.chats import heldout_chats, sample_chats, training_chats

ASK, SAY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _folder(folder: Path, samples: list[dict[str, Any]], rows: list[Any], messages: list[dict[str, Any]]) -> Path:
    _write(folder / "train.samples.jsonl", samples)
    _write(folder / "heldout.jsonl", rows)
    _write(folder / "heldout.messages.jsonl", messages)
    return folder


def _sample(name: str, line: int, messages: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": name, "line": line, "messages": messages or [ASK, SAY], **more}


def test_turns_carry_their_spans(tmp_path: Path) -> None:
    sample = _sample("a", 1, [ASK, SAY, ASK, SAY], input_ids=list(range(9)), trained=[[2, 4], [6, 8]])
    (chat,) = training_chats(_folder(tmp_path, [sample], [], []))
    first, second = chat.turns
    assert (first.start, first.end, len(first.prompt)) == (2, 4, 1)
    assert (second.start, second.end, len(second.prompt)) == (6, 8, 3)
    assert second.answer == SAY


def test_held_out_messages_meet_their_row_if_it_is_whole(tmp_path: Path) -> None:
    rows = [
        {"id": "parts", "line": 3, "input_ids": [1, 2, 3], "trained": [[1, 3]], "part": [1, 2]},
        {"id": "parts", "line": 3, "input_ids": [4, 5, 6], "trained": [[1, 3]], "part": [2, 2]},
        {"id": "whole", "line": 4, "input_ids": [7, 8, 9], "trained": [[1, 3]]},
        {"id": "cut", "line": 5, "input_ids": [0] * 8, "trained": [[1, 8]]},
    ]
    messages = [_sample("parts", 3), _sample("whole", 4), _sample("cut", 5), _sample("gone", 9)]
    (chat,) = heldout_chats(_folder(tmp_path, [], rows, messages), longest=8)
    assert (chat.id, chat.input_ids) == ("whole", (7, 8, 9))


def test_an_answer_that_begins_with_white_space_is_left_out(tmp_path: Path) -> None:
    sample = _sample("a", 1, [ASK, {"role": "assistant", "content": "\na"}], input_ids=[1, 2], trained=[[1, 2]])
    assert list(training_chats(_folder(tmp_path, [sample], [], []))) == []


def test_samples_are_taken_from_both_sides_in_turn(tmp_path: Path) -> None:
    samples = [_sample(f"t{i}", i, input_ids=[1, 2], trained=[[1, 2]]) for i in range(3)]
    rows = [{"line": 10 + i, "input_ids": [1, 2], "trained": [[1, 2]]} for i in range(2)]
    messages = [_sample(f"h{i}", 10 + i) for i in range(2)]
    folder = _folder(tmp_path, samples, rows, messages)
    assert [chat.id for chat in sample_chats(folder, 4, 9)] == ["t0", "h0", "t1", "h1"]
    assert [chat.id for chat in sample_chats(folder, 9, 9)] == ["t0", "h0", "t1", "h1", "t2"]


def test_torn_input_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.samples.jsonl").write_text('{"id": ')
    with pytest.raises(IntegrityError, match=r"train\.samples\.jsonl"):
        list(training_chats(tmp_path))

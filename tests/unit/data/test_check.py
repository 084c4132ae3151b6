"""Checking with a tokenizer: lengths, and rows that only the model's template or tokens refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halops.data.check import check
from halops.data.statistics import percentile, summarise
from tests import chat_templates as styles

MakeModel = Callable[..., Path]


def _write(tmp_path: Path, *chats: list[dict[str, Any]]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path


def test_lengths_are_those_of_the_rendered_rows(tmp_path: Path, make_model: MakeModel) -> None:
    path = _write(tmp_path, styles.CHAT[:2], styles.CHAT)
    report = check(path, 2, tokenizer=make_model(styles.CHATML_DEFAULT))
    assert report.problems == []
    short, long = report.lengths
    assert 15 < short < long < 150


def test_what_the_template_refuses_is_a_problem_of_its_line(tmp_path: Path, make_model: MakeModel) -> None:
    odd = [styles.CHAT[0], styles.CHAT[2], styles.CHAT[3]]
    path = _write(tmp_path, styles.CHAT, odd, styles.CHAT[:2])
    report = check(path, name="f", tokenizer=make_model(styles.MISTRAL, kind="sentencepiece", eos_token="</s>"))
    assert report.problems == [
        "f: line 2: the model's chat template refuses this chat: Roles must alternate user/assistant"
    ]
    assert len(report.lengths) == 2


def test_control_tokens_are_those_of_the_model(tmp_path: Path, make_model: MakeModel) -> None:
    path = _write(tmp_path, [{"role": "user", "content": "press <|turn|> or <enter>"}, styles.CHAT[1]])
    assert check(path).warnings == []
    assert "holds <|turn|>" in check(path, tokenizer=make_model(styles.CHATML_DEFAULT)).problems[0]


def test_percentiles_are_nearest_rank() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, p) for p in (0, 1, 50, 95, 100)] == [1, 1, 50, 95, 100]
    assert percentile([7], 50) == 7
    assert percentile([1, 2], 50) == 1
    assert percentile([1, 2], 51) == 2


def test_summary_of_lengths() -> None:
    assert summarise([]) == {}
    summary = summarise([64, 65, 128, 40_000])
    assert summary["mean"] == 10064.2
    assert summary["max"] == 40_000
    assert summary["histogram"] == [
        {"up_to": 64, "rows": 1},
        {"up_to": 128, "rows": 2},
        {"up_to": None, "rows": 1},
    ]

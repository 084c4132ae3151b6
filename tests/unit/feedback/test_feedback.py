"""Which rated chats become rows, and that those are rows that `data check` accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from halops.cli.rating import Rater
from halops.data.check import check
from halops.errors import DataError, NotFoundError
from halops.feedback.export import read_records, to_lines, to_rows
from halops.feedback.record import ChatRecord, append, record
from halops.site import FeedbackSite, Site


def chat(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def said(*texts: str, day: int = 1, **more: Any) -> ChatRecord:
    return ChatRecord(time=f"2026-11-{day:02}T10:00:00Z", messages=chat(*texts), **{"consent": True} | more)


def test_good_and_corrected_answers_become_rows_that_data_check_accepts(tmp_path: Path) -> None:
    made = to_rows(
        [
            said("how?", "so", rating="good", day=2),
            said("where?", "there", rating="bad", correction="here", day=1, domain="places"),
        ]
    )
    assert [row["messages"][-1]["content"] for row in made.rows] == ["here", "so"]  # the oldest first
    assert [row["domain"] for row in made.rows] == ["places", "feedback"]
    assert made.corrected == 1
    path = tmp_path / "rows.jsonl"
    path.write_text(to_lines(made.rows))
    report = check(path)
    assert (report.rows, report.problems, report.warnings) == (2, [], [])


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (said("a", "b", rating="good", consent=False), "without consent"),
        (said("a", "b", correction="c", consent=False), "without consent"),
        (said("a", "b"), "not rated"),
        (said("a", "b", rating="bad"), "rated bad and not corrected"),
    ],
)
def test_what_is_left_out(item: ChatRecord, reason: str) -> None:
    made = to_rows([item])
    assert made.rows == []
    assert dict(made.left_out) == {reason: 1}


def test_consent_is_never_assumed() -> None:
    line = json.dumps({"time": "2026-11-01T10:00:00Z", "messages": chat("a", "b"), "rating": "good"})
    assert to_rows([ChatRecord.model_validate_json(line)]).rows == []


def test_a_conversation_is_one_row_whichever_of_its_answers_were_rated() -> None:
    made = to_rows([said("a", "b", rating="good"), said("a", "b", "c", "d", rating="good", day=2)])
    assert [len(row["messages"]) for row in made.rows] == [4]
    assert dict(made.left_out) == {"the beginning of a longer one": 1}
    assert dict(to_rows([said("a", "b", rating="good")] * 2).left_out) == {"repeated": 1}


def test_a_good_answer_after_a_bad_one_does_not_teach_the_bad_one() -> None:
    made = to_rows([said("a", "bad", rating="bad"), said("a", "bad", "c", "d", rating="good", day=2)])
    assert made.rows == []
    corrected = to_rows(
        [said("a", "bad", rating="bad", correction="b"), said("a", "b", "c", "d", rating="good", day=2)]
    )
    assert [len(row["messages"]) for row in corrected.rows] == [4]


def test_lines_that_are_no_records_are_all_named(tmp_path: Path) -> None:
    good = said("a", "b", rating="good").model_dump_json()
    lines = ["{", good, '{"time": "x", "messages": [], "raiting": "good"}', said("a", "b", "c").model_dump_json()]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_records([path])
    text = str(caught.value)
    for part in ("log.jsonl: line 1", "line 3: raiting", "line 4: messages"):
        assert part in text
    assert "line 2:" not in text
    with pytest.raises(NotFoundError):
        read_records([tmp_path / "gone.jsonl"])


def test_what_is_kept_is_read_again_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = record(chat("a", "b"), model="ops", rating="good", correction=None)
    path = append(tmp_path / "kept", first)
    append(tmp_path / "kept", record(chat("c", "d"), model="ops", rating="bad", correction="é"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_records([path])[0] == first
    assert len(to_rows(read_records([path])).rows) == 2
    assert read_records([path], since="2999-01-01") == []


@pytest.mark.parametrize(("log", "kept"), [("never", 0), ("ask", 0), ("always", 2)])
def test_the_site_decides_whether_ratings_are_kept(tmp_path: Path, log: Any, kept: int) -> None:
    rater = Rater(Site(feedback=FeedbackSite(log=log)), tmp_path, "ops", terminal=False)
    history = chat("a", "b")
    assert not rater.take("what now?", history)
    assert rater.take("/good", history)
    assert rater.take("/correct c", history)
    assert history[-1]["content"] == "c"
    assert rater.take("/correct", history)
    assert rater.take("/bad", [])  # nothing to rate
    files = list((tmp_path / "feedback").glob("*.jsonl"))
    assert sum(len(path.read_text().splitlines()) for path in files) == kept


def test_a_person_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def confirm(text: str, err: bool) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr("click.confirm", confirm)
    rater = Rater(Site(feedback=FeedbackSite(log="ask")), tmp_path, "ops", terminal=True)
    for _ in range(2):
        rater.take("/good", chat("a", "b"))
    assert len(asked) == 1
    assert len(next((tmp_path / "feedback").iterdir()).read_text().splitlines()) == 2


def test_export_never_writes_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halops.cli.feedback import command
    from halops.errors import ConfigError

    monkeypatch.chdir(tmp_path)
    append(tmp_path / "feedback", record(chat("a", "b"), model="ops", rating="good", correction=None))
    words = ["export", "-o", "rows.jsonl"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert "1 row, 0 of them corrected" in done.stderr
    with pytest.raises(ConfigError, match="there already"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    CliRunner().invoke(command, [*words, "--force", "--json"], catch_exceptions=False)
    assert json.loads((tmp_path / "rows.jsonl").read_text())["messages"] == chat("a", "b")

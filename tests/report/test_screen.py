"""The closing screen: fits, says what counts, and obeys no model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console

from halops.report.model import Answer, ReportData, StageRow, Verdict
from halops.report.screen import clip, next_commands, plain, summary_screen


def shown(data: ReportData, width: int = 100) -> list[str]:
    """The screen's lines as plain text."""
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(summary_screen(data, width))
    return [line.rstrip() for line in capture.get().splitlines()]


def longest(sample: ReportData) -> ReportData:
    """The same run with everything at its longest."""
    text = "words of an answer that goes on " * 40
    answers = tuple(Answer(question=text, expected=text, base=text, tuned=text) for _ in range(9))
    files = tuple(file.model_copy(update={"path": f"{'name' * 30}-{index}.gguf", "stage": "convert"})
                  for index, file in enumerate(sample.files))  # fmt: skip
    return sample.model_copy(update={"answers": answers, "files": files})


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_it_fits(sample: ReportData, width: int) -> None:
    for data in (sample, longest(sample)):
        lines = shown(data, width)
        assert max(map(len, lines)) <= min(width, 100)
        if width >= 80:
            assert len(lines) <= 40


def test_it_says_what_counts(sample: ReportData) -> None:
    text = "\n".join(shown(sample))
    right = sum(bool(probe.tuned_ok) for probe in sample.probes)
    for words in (
        "local-4f1c09ab3e  verified",
        "Held-out loss fell from 3.02 to 0.61: 20% of the base's.",
        "3.021",
        "0.613",
        f"{right} of {len(sample.probes)}",
        "gatling gun",
        "Run `quay zone flip`, then follow RB-684.",
        "halops-f16.gguf",
        "271 MB",
        "19.6 MB",
        "3 min 08 s",
        "5 min 33 s",
        "halops chat --compare base",
        "halops report local-4f1c09ab3e -o report.html",
    ):
        assert words in text


def test_bars_show_without_colour(sample: ReportData) -> None:
    lines = shown(sample)
    base, tuned = (next(line for line in lines if word in line) for word in ("3.021", "0.613"))
    assert base.count("━") > 3 * tuned.count("━") > 0


def test_a_models_text_cannot_steer_the_terminal(sample: ReportData) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07[red]not markup[/red] :boom: \u202ereversed\r\nnext\x9b31m"
    data = sample.model_copy(update={"answers": (Answer(question=hostile, base=hostile, tuned=hostile),)})
    text = "\n".join(shown(data))
    assert not any((ord(char) < 32 and char != "\n") or 0x7F <= ord(char) < 0xA0 or char == "\u202e" for char in text)
    assert "[red]not markup[/red] :boom:" in text


def test_a_failed_run_points_to_its_log(unfinished: Callable[..., ReportData]) -> None:
    stages = (
        StageRow(name="base", state="succeeded", seconds=4),
        StageRow(name="train", state="failed", diagnosis="no GPU"),
    )
    data = unfinished(stages=stages, verdict=Verdict.FAILED)
    text = "\n".join(shown(data))
    assert "Stopped in train: no GPU" in text
    assert "halops logs ops-0123456789 train" in text
    assert "halops resume ops-0123456789" in text
    assert "chat" not in text


def test_nothing_yet(unfinished: Callable[..., ReportData]) -> None:
    assert len(shown(unfinished())) < 10
    assert [command for command, _ in next_commands(unfinished())][-1] == "halops resume ops-0123456789"


def test_commands_are_never_cut(sample: ReportData) -> None:
    data = sample.model_copy(update={"run_id": f"{'n' * 30}-0123456789"})
    text = "\n".join(shown(data, 80))
    for command, _ in next_commands(data):
        assert command in text


def test_plain_and_clip() -> None:
    assert plain(" a\n\tb\x1b[1mc ") == "a bc"
    assert clip("one two three four five six", 10, 2) == ["one two", "three ..."]
    assert clip("", 10, 2) == [""]

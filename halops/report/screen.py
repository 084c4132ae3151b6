"""The one screen that a run ends with: what it learned, what it left, how long it took, what to type next.

Fits 100 columns and 40 lines. Texts of a model go through `plain`, so that none can steer the terminal.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from halops.report.model import Answer, FileRow, ReportData, Verdict
from halops.report.words import headline, probe_scores
from halops.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_ANSWERS, ANSWER_LINES, SHOWN_FILES = 3, 2, 6
MAX_WIDTH = 100
COLOURS = {Verdict.VERIFIED: "green", Verdict.FAILED: "red", Verdict.UNFINISHED: "yellow"}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def summary_screen(data: ReportData, width: int = MAX_WIDTH) -> RenderableType:
    """A rich renderable of at most 40 lines, `width` columns wide (100 at most)."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    width = max(40, min(width, MAX_WIDTH))
    title = Text.assemble((data.run_id, "bold"), "  ", (data.verdict.value, f"bold {COLOURS[data.verdict]}"))
    lead = Text("\n".join(clip(plain(headline(data)), width - 2, 2)))
    blocks = [title, lead, _scores(data, width), _answers(data, width), _record(data, width), _next(data)]
    shown = [block for block in blocks if block is not None]
    spaced: list[Any] = [shown[0]]
    for block in shown[1:]:
        spaced += [block] if block is lead else [Text(""), block]
    return Padding(Group(*spaced), (0, 1, 0, 1))


def plain(text: str) -> str:
    """Text without escape sequences, control or direction characters, its white space made single."""
    return re.sub(r"\s+", " ", _CONTROL.sub("", text)).strip()


def clip(text: str, width: int, lines: int) -> list[str]:
    """The text in at most `lines` lines of `width` columns, the last one ending in dots where more is left."""
    wrapped = textwrap.wrap(text, max(width, 10), max_lines=lines, placeholder=" ...")
    return wrapped or [""]


def _bar(share: float, width: int, style: str) -> Any:
    from rich.text import Text

    filled = round(min(max(share, 0), 1) * width)
    return Text.assemble(("━" * filled, style), " " * (width - filled))


def _scores(data: ReportData, width: int) -> Any:
    """Held-out loss and probes as bars, base above tuned."""
    from rich.table import Table

    rows: list[tuple[str, str, float, str]] = []
    base, tuned = data.number("train", "heldout_loss_base"), data.number("train", "heldout_loss")
    if base is not None and tuned is not None and max(base, tuned) > 0:
        top = max(base, tuned)
        rows += [("held-out loss", "base", base / top, f"{base:.3f}"), ("", "tuned", tuned / top, f"{tuned:.3f}")]
    if scores := probe_scores(data):
        right, base_right, total = scores
        if base_right is not None:
            rows.append(("probes", "base", base_right / total, f"{base_right} of {total}"))
        rows.append(("" if base_right is not None else "probes", "tuned", right / total, f"{right} of {total}"))
    if not rows:
        return None
    grid = Table.grid(padding=(0, 2))
    for name, who, share, text in rows:
        style = "cyan" if who == "tuned" else "bright_black"
        grid.add_row(name, who, _bar(share, max(10, width - 50), style), text)
    return grid


def _answers(data: ReportData, width: int) -> Any:
    """Both answers to a few held-out questions."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    chosen = [answer for answer in data.answers if answer.tuned is not None][:SHOWN_ANSWERS]
    if not chosen:
        return None
    parts: list[Any] = [Text("held-out questions", style="bold")]
    for answer in chosen:
        parts.append(Text("\n".join(clip(plain(answer.question), width - 2, 1))))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=7)
        for who, text, style in _said(answer):
            lines = clip(plain(text) or "(nothing)", width - 13, ANSWER_LINES)
            grid.add_row(Text(f"  {who}", style=style), Text("\n".join(lines), style=style))
        parts.append(grid)
    return Group(*parts)


def _said(answer: Answer) -> list[tuple[str, str, str]]:
    both = [("base", answer.base, "bright_black"), ("tuned", answer.tuned, "cyan")]
    return [(who, text, style) for who, text, style in both if text is not None]


def _record(data: ReportData, width: int) -> Any:
    """Files on the left, time by stage on the right."""
    from rich.table import Table

    files = _files(data)
    longest = max((stage.seconds or 0 for stage in data.stages), default=0)
    if not files and not longest:
        return None
    left = Table.grid(padding=(0, 2))
    left.add_column(max_width=width // 2 - 14, no_wrap=True, overflow="ellipsis")
    left.add_column(justify="right")
    left.add_row("files", "", style="bold")
    for file in files:
        left.add_row(plain(file.path), human_bytes(file.size))
    right = Table.grid(padding=(0, 2))
    right.add_row("time by stage", "", human_seconds(data.seconds), style="bold")
    for stage in data.stages:
        taken = human_seconds(stage.seconds) if stage.seconds is not None else stage.state
        right.add_row(stage.name, _bar((stage.seconds or 0) / (longest or 1), 14, "cyan"), taken)
    grid = Table.grid(padding=(0, 4))
    grid.add_row(left, right)
    return grid


def _files(data: ReportData) -> list[FileRow]:
    """What one takes away: the GGUF files, the adapter, the largest merged shard."""
    wanted = [file for file in data.files if file.stage == "convert" and file.path.endswith(".gguf")]
    wanted += [file for file in data.files if file.stage == "train" and file.path.endswith("adapter_model.safetensors")]
    return wanted[:SHOWN_FILES]


def _next(data: ReportData) -> Any:
    """Commands to type next, whole and ready to paste."""
    from rich.table import Table

    rows = [(f"  {command}", words) for command, words in next_commands(data)]
    grid = Table.grid(padding=(0, 3))
    grid.add_column(no_wrap=True, min_width=max(len(command) for command, _ in rows))  # never cut a command
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row("next", "", style="bold")
    for row in rows:
        grid.add_row(*row)
    return grid


def next_commands(data: ReportData) -> list[tuple[str, str]]:
    """(command, what it does), fit for where the run stands."""
    run = data.run_id
    if data.verdict is Verdict.VERIFIED:
        return [
            ("halops chat --compare base", "talk to it, with the base's answer beside"),
            (f"halops serve {run}", "its OpenAI API on 127.0.0.1"),
            (f"halops report {run} -o report.html", "curves, probes, digests on one page"),
            (f"halops artifacts {run}", "every file with its digest"),
        ]
    failed = next((stage.name for stage in data.stages if stage.state == "failed"), "")
    commands = [(f"halops logs {run} {failed}", "why it failed")] if failed else []
    return [*commands, (f"halops status {run}", "where it stands"), (f"halops resume {run}", "go on from what is done")]

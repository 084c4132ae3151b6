"""Checking a dataset: every problem by line, and what is in it. Reads the file once, keeping no rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from halops.data.findings import Findings
from halops.data.render import Renderer
from halops.data.rows import COMMON_SPECIAL, Conversation, RowReader
from halops.data.split import conversation_key, split_key
from halops.data.tokenizer import ChatTokenizer
from halops.data.windows import Fitted, Windows
from halops.errors import DataError

BATCH = 256  # conversations tokenized together
NO_DOMAIN = "(none)"
OnRow = Callable[[int], None]


@dataclass
class Report:
    """What is in a dataset, and what is wrong with it.

    `turns` counts conversations by their number of assistant turns; `keys` has (line, split key) of every valid row,
    in order; `lengths` are in tokens, where a tokenizer was given.
    """

    findings: Findings
    rows: int = 0
    duplicates: int = 0
    domains: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    keys: list[tuple[int, bytes]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """One line for each problem: file, line, field, what is wrong."""
        return self.findings.all_problems()

    @property
    def warnings(self) -> list[str]:
        """One line for each warning."""
        return self.findings.all_warnings()

    def raise_for_problems(self) -> None:
        """Raise DataError with all problems, if there are any."""
        count = self.findings.problem_count
        if count:
            raise DataError(
                f"{count} problem{'s' if count > 1 else ''} in the dataset",
                self.problems,
                where=self.findings.name,
                remedy="mend the lines named above; `halops data check FILE` looks again",
            )


def check(
    path: Path,
    expected: int | None = None,
    *,
    name: str | None = None,
    tokenizer: Path | None = None,
    special: tuple[str, ...] | None = None,
    on_bytes: OnRow | None = None,
) -> Report:
    """Check a file of rows.

    Args:
        expected: `data.expected_examples`: how many rows there must be.
        name: how the user calls the file; its path by default.
        tokenizer: a model's folder: rows are rendered too, and their lengths reported.
        special: a model's control tokens, if there is no tokenizer folder to take them from.
        on_bytes: called with the number of bytes read so far.

    Raises:
        NotFoundError, DataError: the file can't be read as lines of text at all.
        ModelError: the tokenizer or its template can't be used.
    """
    model = ChatTokenizer(tokenizer) if tokenizer else None
    report = scan(path, name or str(path), special=model.special if model else special, on_bytes=on_bytes)
    if expected is not None and report.rows != expected:
        report.findings.problem(
            f"has {report.rows} row{'' if report.rows == 1 else 's'}, but data.expected_examples is {expected}"
        )
    if model:
        _measure(path, report, Renderer(model, model.serving_template()))
    return report


def scan(path: Path, name: str, *, special: tuple[str, ...] | None = None, on_bytes: OnRow | None = None) -> Report:
    """Read every row: problems, warnings, counts.

    Args:
        special: the model's control tokens, which no row may hold; common ones, which only warn, if not given.
    """
    report = Report(Findings(name))
    reader = RowReader(report.findings, COMMON_SPECIAL if special is None else special, certain=special is not None)
    seen: dict[bytes, int] = {}
    ids: dict[str, int] = {}
    for done, conversation in reader.read(path):
        report.rows += 1
        if conversation is not None:
            _count(report, conversation, seen, ids)
        if on_bytes:
            on_bytes(done)
    if report.rows == 0:
        report.findings.problem("is empty: it has no rows")
    return report


def _count(report: Report, conversation: Conversation, seen: dict[bytes, int], ids: dict[str, int]) -> None:
    line, messages = conversation.line, conversation.messages
    key = conversation_key(messages, conversation.tools)
    if (first := seen.setdefault(key, line)) != line:
        report.duplicates += 1
        report.findings.warn(f"repeats the conversation of line {first}", line=line)
    if (first := ids.setdefault(conversation.id, line)) != line:
        report.findings.warn(f"{conversation.id!r} is the id of line {first} too", line=line, field="id")
    report.domains[conversation.domain or NO_DOMAIN] += 1
    report.roles.update(message["role"] for message in messages)
    report.turns[sum(message["role"] == "assistant" for message in messages)] += 1
    report.keys.append((line, split_key(messages)))


def valid_rows(path: Path) -> Iterator[Conversation]:
    """The conversations of a file that was checked before."""
    for _, conversation in RowReader(Findings(str(path)), ()).read(path):
        if conversation is not None:
            yield conversation


def fitted_rows(path: Path, windows: Windows, findings: Findings) -> Iterator[Fitted]:
    """Every valid row as tokens, in batches; a row that the template refuses is reported as a problem."""
    conversations = valid_rows(path)
    while batch := list(islice(conversations, BATCH)):
        for result in windows.fit(batch):
            if isinstance(result, Fitted):
                yield result
            else:
                conversation, error = result
                findings.problem(error.what, line=conversation.line)


def _measure(path: Path, report: Report, renderer: Renderer) -> None:
    windows = Windows(renderer, limit=2**31, long_rows="truncate")
    report.lengths = [fitted.length for fitted in fitted_rows(path, windows, report.findings)]

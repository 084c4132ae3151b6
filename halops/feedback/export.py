"""Rated chats to rows that can be trained on: only with consent, only answers that are good or were corrected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from halops.artifact import canonical_json, sha256_bytes
from halops.data.findings import Findings
from halops.data.messages import check_messages
from halops.data.rows import read_lines
from halops.errors import DataError
from halops.feedback.record import ChatRecord

Messages = list[dict[str, Any]]
DOMAIN = "feedback"  # of records that name none
NO_CONSENT, NOT_RATED, BAD = "without consent", "not rated", "rated bad and not corrected"
HOLDS_BAD, PART, REPEATED = "holding an answer that was rated bad", "the beginning of a longer one", "repeated"


@dataclass
class Exported:
    """Rows for `halops data check` and training, the oldest first; how many records were left out, by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    corrected: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def read_records(paths: Iterable[Path], since: str = "") -> list[ChatRecord]:
    """All records of these files.

    Args:
        since: the first day, as 2026-11-01; earlier records aren't read.

    Raises DataError with every line that isn't one, NotFoundError for a file that isn't there.
    """
    found: list[ChatRecord] = []
    problems: list[str] = []
    for path in paths:
        findings = Findings(path.name)
        found += _read(path, findings)
        problems += findings.all_problems()
    if problems:
        raise DataError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the feedback", problems,
            remedy="mend or remove those lines; docs/feedback.md shows what a line holds",
        )  # fmt: skip
    return sorted((item for item in found if item.time >= since), key=lambda item: item.time)


def _read(path: Path, findings: Findings) -> Iterator[ChatRecord]:
    for line, raw in read_lines(path):
        if not raw.strip():
            continue
        try:
            item = ChatRecord.model_validate_json(raw)
        except ValidationError as error:
            for one in error.errors():
                findings.problem(one["msg"], line=line, field=".".join(map(str, one["loc"])))
        else:
            if _check(item, line, findings):
                yield item


def _check(item: ChatRecord, line: int, findings: Findings) -> bool:
    """Whether its messages are a conversation, which ends with an answer: the rated one."""

    def problem(key: str, text: str) -> None:
        findings.problem(text, line=line, field=key)

    return check_messages(item.messages, problem, lambda key: None) is not None


def to_rows(records: Sequence[ChatRecord]) -> Exported:
    """Decide for each record. The rows are conversations; each of their answers will be learned."""
    made = Exported()
    usable: list[tuple[ChatRecord, Messages]] = []
    for item in records:
        if reason := _unusable(item):
            made.left_out[reason] += 1
        else:
            usable.append((item, _corrected(item)))
    bad = {_key(item.messages) for item in records if item.rating == "bad"}
    whole: set[str] = set()
    begun: set[str] = set()  # what the conversations taken begin with
    taken: list[tuple[ChatRecord, Messages]] = []
    for item, messages in sorted(usable, key=lambda pair: -len(pair[1])):  # the longest first
        beginnings = {_key(messages[:length]) for length in range(1, len(messages) + 1)}
        key = _key(messages)
        if beginnings & bad:
            made.left_out[HOLDS_BAD] += 1
        elif key in whole:
            made.left_out[REPEATED] += 1
        elif key in begun:
            made.left_out[PART] += 1
        else:
            taken.append((item, messages))
            whole.add(key)
            begun |= beginnings
    for item, messages in sorted(taken, key=lambda pair: pair[0].time):
        made.corrected += item.correction is not None
        made.rows.append(_row(item, messages))
    return made


def _unusable(item: ChatRecord) -> str | None:
    if not item.consent:
        return NO_CONSENT
    if item.correction:
        return None
    return {None: NOT_RATED, "bad": BAD, "good": None}[item.rating]


def _corrected(item: ChatRecord) -> Messages:
    if not item.correction:
        return item.messages
    return [*item.messages[:-1], item.messages[-1] | {"content": item.correction}]


def _key(messages: Messages) -> str:
    return sha256_bytes(canonical_json(messages))


def _row(item: ChatRecord, messages: Messages) -> dict[str, Any]:
    return {"id": f"feedback-{_key(messages)[:12]}", "domain": item.domain or DOMAIN, "messages": messages}


def to_lines(rows: Iterable[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

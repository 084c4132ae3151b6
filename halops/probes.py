"""Probes: questions whose right answer a machine can check. Pure: reads rows, judges answers, asks no model.

One JSON object a line:

    {"id": "fw-1", "domain": "firewall", "messages": [{"role": "user", "content": "Which runbook ...?"}],
     "expect": {"all": ["RB-217"], "any": [], "none": ["RB-342", "RB-468"]}}

An answer passes if it holds every phrase of `all`, at least one of `any` (if given) and none of `none`. `none` lists
what could be mixed up with the answer, so that reciting everything doesn't pass.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints, ValidationError, model_validator

from halops.artifact import Frozen
from halops.errors import DataError, NotFoundError

Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

_REMEDY = 'a probe is {"id", "messages", "expect": {"all", "any", "none"}}, and may have a "domain"'
_MARKUP = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------", "`*")  # all dashes alike; no Markdown


class Message(Frozen):
    """One turn that is put to the model."""

    role: Literal["system", "user", "assistant"]
    content: Phrase


class Expect(Frozen):
    """What a right answer holds. Compared as `judge` says."""

    all: tuple[Phrase, ...] = ()
    any: tuple[Phrase, ...] = ()
    none: tuple[Phrase, ...] = ()

    @model_validator(mode="after")
    def _can_pass_and_fail(self) -> Expect:
        if not self.all and not self.any:
            raise ValueError("all and any are both empty: nothing is asked for")
        for phrase in self.none:
            for wanted in self.all:
                if holds(wanted, phrase):
                    raise ValueError(f"none has {phrase!r}, which is part of {wanted!r} in all: no answer can pass")
        if self.any and all(any(holds(wanted, phrase) for phrase in self.none) for wanted in self.any):
            raise ValueError("none rules out every phrase of any: no answer can pass")
        return self


class Probe(Frozen):
    """One question with its expectation. `messages` ends with the user's turn."""

    id: Phrase
    domain: str = ""
    messages: tuple[Message, ...]
    expect: Expect

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> Probe:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("messages must end with the user's turn")
        return self

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what it lacks or mixes up."""

    passed: bool
    missing: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


def load_probes(path: Path) -> tuple[Probe, ...]:
    """The probes of a JSONL file.

    Raises:
        NotFoundError: no such file.
        DataError: with all problems, each with line and field.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        remedy = "set data.probes to a JSONL file, or to null for none"
        raise NotFoundError("no such file of probes", where=str(path), remedy=remedy) from error
    return parse_probes(data, where=str(path))


def parse_probes(data: bytes, where: str) -> tuple[Probe, ...]:
    """The probes in the bytes of a JSONL file; blank lines are skipped. Raises DataError with all problems."""
    probes: list[Probe] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            probe = Probe.model_validate_json(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            problems.append(f"line {number}: not UTF-8 (byte {error.start + 1} of the line)")
        except ValidationError as error:
            problems.extend(f"line {number}: {text}" for text in _texts(error))
        else:
            if probe.id in first_line:
                problems.append(f"line {number}: id: {probe.id!r} is also the id on line {first_line[probe.id]}")
            first_line.setdefault(probe.id, number)
            probes.append(probe)
    if not probes and not problems:
        problems.append("no probe in it")
    if problems:
        raise DataError(f"{len(problems)} problem(s) in the probes", problems, where=where, remedy=_REMEDY)
    return tuple(probes)


def normalise(text: str) -> str:
    """Text as it is compared: NFKC, no case, one kind of dash, no backticks or asterisks, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_MARKUP).casefold().split())


def holds(text: str, phrase: str) -> bool:
    """Whether `phrase` occurs in `text` as whole words: RB-21 isn't in RB-217, nor 5 in 15, 1.5 or 5:30."""
    wanted = normalise(phrase)
    before = r"(?<!\w)(?<!\d[.,:])" if wanted[:1].isdigit() else r"(?<!\w)" if _is_word(wanted[:1]) else ""
    after = r"(?!\w)(?![.,:]\d)" if wanted[-1:].isdigit() else r"(?!\w)" if _is_word(wanted[-1:]) else ""
    return re.search(before + re.escape(wanted) + after, normalise(text)) is not None


def judge(answer: str, expect: Expect) -> Verdict:
    """Check one answer: `missing` are phrases asked for and absent (all of `any` if none is there)."""
    missing = [phrase for phrase in expect.all if not holds(answer, phrase)]
    if expect.any and not any(holds(answer, phrase) for phrase in expect.any):
        missing.extend(expect.any)
    forbidden = [phrase for phrase in expect.none if holds(answer, phrase)]
    return Verdict(not missing and not forbidden, tuple(missing), tuple(forbidden))


def score(verdicts: Iterable[Verdict]) -> float:
    """The share that passed, 0 to 1. Raises ValueError on none at all: a score of nothing is no score."""
    passed: Sequence[bool] = [verdict.passed for verdict in verdicts]
    if not passed:
        raise ValueError("no verdicts to score")
    return sum(passed) / len(passed)


def _is_word(character: str) -> bool:
    return re.fullmatch(r"\w", character) is not None


def _texts(error: ValidationError) -> list[str]:
    """One line for each problem: field path, then what is wrong."""
    lines = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{path}: {text}" if path else text)
    return lines

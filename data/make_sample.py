"""Writes the shipped sample: `train.jsonl` and `probes.jsonl`, the same bytes each time.

    python data/make_sample.py            # into data/final

Choices are ordered by SHA-256 rather than by a random generator: the same on every Python version.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import Any, TypeVar

from estate import (
    DOMAINS,
    DRY_RUN,
    DUTY,
    DUTY_PHONE,
    SITES,
    TICKET,
    UNDO,
    URGENT_BRIDGE,
    Domain,
)
from probe_wording import PROBES
from wording import ANSWERS, CONVERSATIONS, FOLLOW_UPS, NAMES, QUESTIONS, SLIPS, SYMPTOMS, SYSTEM

T = TypeVar("T")
Row = dict[str, Any]

# Single questions for each domain, by what is asked; `CONVERSATIONS` come on top.
SINGLE = {
    "runbook": 7, "command": 13, "escalate": 14, "window": 13, "naming": 10, "lookup": 2,
    "incident": 3, "rehearse": 7, "undo": 7, "silent": 8, "urgent": 8,
}  # fmt: skip


def scrambled(items: Sequence[T], key: str) -> list[T]:
    """The items in an order that depends on `key` and their own text alone."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{key}|{item!r}".encode()).digest())


def one_in(n: int, key: str) -> bool:
    """True for about one key in `n`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % n == 0


class Desk:
    """Asks and answers for one domain, using up its symptoms, names and hosts in turn."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.symptoms = cycle(scrambled(SYMPTOMS[domain.name], "symptom"))
        self.names = cycle(NAMES[domain.name])
        sites = [(site, number) for number in range(1, 5) for site in SITES]
        self.hosts = cycle(scrambled(sites, domain.name))
        self.questions = {asked: cycle(scrambled(texts, domain.name)) for asked, texts in QUESTIONS.items()}
        self.follow_ups = {asked: cycle(scrambled(texts, domain.name)) for asked, texts in FOLLOW_UPS.items()}
        self.answers = {asked: cycle(scrambled(texts, domain.name)) for asked, texts in ANSWERS.items()}

    def talk(self, asked: Sequence[str]) -> list[dict[str, str]]:
        """Messages of a conversation that asks for each of `asked`, about the same host."""
        site, number = next(self.hosts)
        host = f"{self.domain.prefix}-{site}-{number:02d}"
        frame = next(self.questions[asked[0]])
        symptom = next(self.symptoms) if "{s}" in frame.lower() else ""
        one, many = next(self.names)
        place = SITES[site]
        symptom = symptom.format(host=host, place=place)
        question = frame.format(S=_capital(symptom), s=symptom, host=host, place=place, one=one, many=many)
        question = _capital(_article(question))
        if host not in question and len(asked) > 1:
            question = f"{question} It's {host}."
        named = host in question
        if one_in(7, question):
            question = tired(question)
        messages: list[dict[str, str]] = []
        for turn, what in enumerate(asked):
            if turn:
                question = next(self.follow_ups[what])
            answer = self.answer(what, host, place, site, named)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return messages

    def answer(self, asked: str, host: str, place: str, site: str, named: bool) -> str:
        """The desk's answer, with every fact from the table."""
        domain = self.domain
        return next(self.answers[asked]).format(
            one=domain.one, many=domain.many, prefix=domain.prefix, runbook=domain.runbook,
            team=domain.team, minutes=domain.minutes, window=domain.window, host=host, place=place, site=site,
            example=host, run=f"{domain.command} {host}" if named else domain.command, dry_run=DRY_RUN, undo=UNDO,
            ticket=TICKET, duty=DUTY, duty_phone=DUTY_PHONE, bridge=URGENT_BRIDGE,
        )  # fmt: skip


def tired(question: str) -> str:
    """The question as somebody types it at four in the morning: a slip or two, no capitals, no question mark."""
    for right, wrong in scrambled(SLIPS, question)[:12]:
        question = re.sub(rf"\b{re.escape(right)}\b", wrong, question, count=1)
    return question[0].lower() + question[1:].rstrip("?.")


def _capital(text: str) -> str:
    """`text` with a capital first letter, unless it begins with a host name."""
    return text if re.match(r"[a-z]+-[a-z]{3}-\d", text) else text[:1].upper() + text[1:]


def _article(text: str) -> str:
    """`a` before a vowel sound becomes `an`."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def training_rows() -> list[Row]:
    """All conversations, domains mixed; no first question occurs twice."""
    rows: list[Row] = []
    seen: set[str] = set()
    for domain in DOMAINS:
        desk = Desk(domain)
        plan = [(asked,) for asked, times in SINGLE.items() for _ in range(times)] + 2 * CONVERSATIONS[:9]
        for number, asked in enumerate(scrambled(plan, domain.name), start=1):
            messages = _unseen(desk, asked, seen)
            row_id = f"{domain.name}-{number:03d}"
            if one_in(24, row_id):
                messages = [{"role": "system", "content": scrambled(SYSTEM, row_id)[0]}, *messages]
            rows.append({"id": row_id, "domain": domain.name, "messages": messages})
    return scrambled(rows, "rows")


def _unseen(desk: Desk, asked: Sequence[str], seen: set[str]) -> list[dict[str, str]]:
    for _ in range(100):
        messages = desk.talk(asked)
        question = messages[0]["content"].lower()
        if question not in seen:
            seen.add(question)
            return messages
    raise RuntimeError(f"no new question for {desk.domain.name} {asked}: write more wordings")


def expectation(domain: Domain, asked: str, question: str) -> dict[str, list[str]]:
    """What a right answer must contain, and the other domains' values that it must not."""
    host = found[0] if (found := re.findall(r"\b[a-z]+-[a-z]{3}-\d\d\b", question)) else ""
    others = [other for other in DOMAINS if other != domain]
    run = f"{domain.command} {host}".strip()
    all_of, none_of = {
        "runbook": ([domain.runbook], [other.runbook for other in others]),
        "command": ([run], [other.command for other in others]),
        "escalate": ([domain.team, f"{domain.minutes} minutes"], [other.team for other in others]),
        "window": (domain.window.split(), sorted({other.window for other in others} - {domain.window})),
        "naming": ([f"{domain.prefix}-SITE-NN"], [f"{other.prefix}-SITE-NN" for other in others]),
        "silent": ([domain.team, DUTY_PHONE], [other.team for other in others]),
        "urgent": ([domain.team, URGENT_BRIDGE], [other.team for other in others]),
        "rehearse": ([run, DRY_RUN], [other.command for other in others]),
        "undo": ([f"{UNDO} {host}"], [other.runbook for other in others]),
    }[asked]
    return {"all": all_of, "none": none_of}


def probe_rows() -> list[Row]:
    """All probes, in the order in which they are written."""
    by_name = {domain.name: domain for domain in DOMAINS}
    numbers: dict[str, Iterator[int]] = {name: count(1) for name in by_name}
    return [
        {
            "id": f"probe-{name}-{next(numbers[name])}",
            "domain": name,
            "messages": [{"role": "user", "content": question}],
            "expect": expectation(by_name[name], asked, question),
        }
        for name, asked, question in PROBES
    ]


def write(folder: Path) -> None:
    """Write both files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.jsonl", training_rows()), ("probes.jsonl", probe_rows())):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "final")

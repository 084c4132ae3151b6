"""The shipped sample: complete, consistent, the same each time, and probed in other words than it teaches."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.shuffled import main as shuffle_main
from bench.shuffled import shuffle_answers
from halops.probes import Probe, judge, load_probes, score

DATA = Path(__file__).parents[2] / "data"
NAMES = {"firewall", "switch", "storage", "monitoring", "dns", "backup", "hypervisor", "kubernetes"}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [json.loads(line) for line in (DATA / "final" / "train.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def probes() -> tuple[Probe, ...]:
    return load_probes(DATA / "final" / "probes.jsonl")


@pytest.fixture(scope="module")
def estate() -> ModuleType:
    module = ModuleType("estate")
    sys.modules["estate"] = module  # dataclasses look their module up
    exec((DATA / "estate.py").read_text(encoding="utf-8"), module.__dict__)
    return module


def turns(row: Row, role: str) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == role]


def test_the_generator_writes_exactly_what_is_shipped(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA / "make_sample.py", tmp_path], check=True)
    for name in ("train.jsonl", "probes.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / "final" / name).read_bytes()


def test_the_sample_is_large_enough_and_covers_all_domains_evenly(rows: list[Row], probes: tuple[Probe, ...]) -> None:
    assert len(rows) >= 400
    assert len(probes) >= 40
    for counts, least in ((Counter(row["domain"] for row in rows), 50), (Counter(probe.domain for probe in probes), 5)):
        assert set(counts) == NAMES
        assert min(counts.values()) >= least


def test_rows_are_well_formed_conversations(rows: list[Row]) -> None:
    for row in rows:
        roles = "".join(message["role"][0] for message in row["messages"])
        assert re.fullmatch(r"s?(ua)+", roles), row["id"]
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])
    several = sum(len(turns(row, "user")) > 1 for row in rows)
    with_system = sum(bool(turns(row, "system")) for row in rows)
    assert 0.15 < several / len(rows) < 0.3
    assert 0 < with_system / len(rows) < 0.1


def test_no_row_occurs_twice(rows: list[Row]) -> None:
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({json.dumps(row["messages"]) for row in rows}) == len(rows)
    assert len({turns(row, "user")[0].lower() for row in rows}) == len(rows)


def words(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text.lower())


def test_no_probe_repeats_a_training_question(rows: list[Row], probes: tuple[Probe, ...]) -> None:
    questions = [words(text) for row in rows for text in turns(row, "user")]
    asked = [words(probe.question) for probe in probes]
    assert len({tuple(one) for one in asked}) == len(asked)
    for one in asked:
        worst = max(questions, key=lambda other: SequenceMatcher(None, one, other).ratio())
        assert SequenceMatcher(None, one, worst).ratio() < 0.6, (one, worst)


def test_answers_state_only_facts_of_their_own_domain(rows: list[Row], estate: ModuleType) -> None:
    by_name = {domain.name: domain for domain in estate.DOMAINS}
    for row in rows:
        domain = by_name[row["domain"]]
        for answer in turns(row, "assistant"):
            assert set(re.findall(r"\b[A-Z]+-\d\d\b", answer)) <= {domain.runbook}, answer
            assert set(re.findall(r"[Tt]eam (\w+)", answer)) <= {domain.team}, answer
            assert set(re.findall(r"(\d+) minutes", answer)) <= {str(domain.minutes)}, answer
            assert set(re.findall(r"quay (?!undo)\w+ \w+", answer)) <= {domain.command}, answer
            assert set(re.findall(r"\w+day \d\d:\d\d", answer)) <= {domain.window}, answer
            assert set(re.findall(r"(\w+)-(?:ost|bra|vel|SITE)-", answer)) <= {domain.prefix}, answer
            assert set(re.findall(r"\b\d{4}\b", answer)) <= {estate.DUTY_PHONE, estate.URGENT_BRIDGE}, answer


def test_a_host_named_by_the_user_is_the_host_in_the_answers(rows: list[Row]) -> None:
    def hosts(row: Row, role: str) -> set[str]:
        return set(re.findall(r"\b[a-z]+-[a-z]{3}-\d\d\b", " ".join(turns(row, role))))

    for row in rows:
        if named := hosts(row, "user"):
            assert len(named) == 1
            assert hosts(row, "assistant") <= named, row["id"]


def test_every_fact_recurs_often_enough_to_be_learnt(rows: list[Row], estate: ModuleType) -> None:
    def rows_with(fact: str) -> int:
        return sum(any(fact in answer for answer in turns(row, "assistant")) for row in rows)

    facts = [estate.DRY_RUN, estate.UNDO, estate.TICKET, estate.DUTY_PHONE, estate.URGENT_BRIDGE]
    for domain in estate.DOMAINS:
        facts += [domain.runbook, domain.command, f"team {domain.team}", f"{domain.minutes} minutes", domain.window]
        facts += [f"{domain.prefix}-"]
    rare = {fact: rows_with(fact) for fact in facts if rows_with(fact) < 12}
    assert not rare


def test_values_of_different_domains_cannot_be_mixed_up(estate: ModuleType) -> None:
    for field in ("prefix", "runbook", "command", "team", "minutes"):
        assert len({getattr(domain, field) for domain in estate.DOMAINS}) == len(NAMES), field
    assert len({domain.window for domain in estate.DOMAINS}) == 7  # a week has no eighth day


def test_every_probe_can_be_answered_and_none_gives_itself_away(
    rows: list[Row], probes: tuple[Probe, ...], estate: ModuleType
) -> None:
    everything = " ".join(
        f"{one}"
        for domain in estate.DOMAINS
        for one in (*vars(domain).values(), domain.runbook, f"{domain.prefix}-SITE-NN")
    )
    for probe in probes:
        assert judge(" ".join((*probe.expect.all, *probe.expect.any)), probe.expect).passed
        assert not judge(probe.question, probe.expect).passed, probe.id
        assert not judge(f"{probe.question} {everything} 7070 4400 --rehearse", probe.expect).passed, probe.id


def test_no_single_answer_of_the_sample_passes_many_probes(rows: list[Row], probes: tuple[Probe, ...]) -> None:
    answers = {answer for row in rows for answer in turns(row, "assistant")}
    best = max(score([judge(answer, probe.expect) for probe in probes]) for answer in answers)
    assert best <= 0.1


def test_shuffling_keeps_questions_and_the_set_of_answers(rows: list[Row], tmp_path: Path) -> None:
    before = json.dumps(rows)
    shuffled = shuffle_answers(rows, seed=3)
    assert json.dumps(rows) == before
    assert shuffled == shuffle_answers(rows, seed=3) != shuffle_answers(rows, seed=4)
    for role in ("system", "user"):
        assert [turns(row, role) for row in shuffled] == [turns(row, role) for row in rows]
    answers = [Counter(answer for row in some for answer in turns(row, "assistant")) for some in (rows, shuffled)]
    assert answers[0] == answers[1]
    kept = sum(turns(one, "assistant") == turns(other, "assistant") for one, other in zip(rows, shuffled, strict=True))
    assert kept / len(rows) < 0.05
    shuffle_main(["--data", str(DATA / "final" / "train.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--seed", "3"])
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()] == shuffled

"""Two models, the same questions: answers, scores and speed side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from halops.chat import Answer, ChatClient, Message
from halops.plan import make_plan
from halops.probes import Expect, judge, parse_probes
from halops.runspec import RunSpec
from halops.store.artifacts import read_manifest
from halops.store.base import Store
from halops.verify.probing import Request, ask_all, tokens_per_second


@dataclass(frozen=True)
class Asked:
    """One question, what is expected of its answer (None: nothing that can be scored), and the answers by model."""

    text: str
    expect: Expect | None
    answers: dict[str, str]

    def right(self, model: str) -> bool | None:
        """Whether a model's answer is right; None where that can't be said."""
        return judge(self.answers[model], self.expect).passed if self.expect else None


@dataclass(frozen=True)
class Comparison:
    """All questions, and each model's generation speed in tokens a second."""

    asked: tuple[Asked, ...]
    speed: dict[str, float | None]

    def score(self, model: str) -> tuple[int, int]:
        """How many of the probes a model answers rightly, and of how many."""
        scored = [item.right(model) for item in self.asked if item.expect]
        return sum(bool(item) for item in scored), len(scored)


@dataclass(frozen=True)
class Question:
    """What is asked, and what counts as right."""

    messages: tuple[Message, ...]
    expect: Expect | None = None

    @property
    def text(self) -> str:
        """The last thing said."""
        return str(self.messages[-1]["content"])


def questions_of(store: Store, spec: RunSpec, heldout: int) -> list[Question]:
    """The run's probes, and the first `heldout` of its held-out questions."""
    found: list[Question] = []
    if probes := spec.probes:
        for probe in parse_probes(store.read(probes.key) or b"", probes.uri):
            found.append(Question(tuple(message.model_dump() for message in probe.messages), probe.expect))
    data = read_manifest(store, make_plan(spec).step("data").prefix)
    for entry in data.files if data else ():
        if entry.path == "heldout.messages.jsonl":
            lines = (store.read(entry.key) or b"").splitlines()[:heldout]
            found += [question for line in lines if (question := _opening(json.loads(line)["messages"]))]
    return found


def _opening(messages: Sequence[Message]) -> Question | None:
    """A conversation up to its first answer."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            return Question(tuple(messages[:index])) if index else None
    return None


def compare(clients: dict[str, ChatClient], questions: Sequence[Question], limit: int, parallel: int) -> Comparison:
    """Ask each model everything, greedily.

    Args:
        limit: tokens of an answer.
        parallel: requests at a time.
    """
    requests: list[Request] = [(question.messages, limit) for question in questions]
    answers: dict[str, list[Answer]] = {
        name: list(ask_all(client, requests, parallel)) for name, client in clients.items()
    }
    asked = tuple(
        Asked(question.text, question.expect, {name: answers[name][index].text for name in clients})
        for index, question in enumerate(questions)
    )
    return Comparison(asked, {name: tokens_per_second(found) for name, found in answers.items()})

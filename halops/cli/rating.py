"""`/good`, `/bad` and `/correct TEXT` in a chat: what a person says of the last answer, kept if they agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import note

if TYPE_CHECKING:
    from halops.site import Site

COMMANDS = ("/good", "/bad", "/correct")
HELP = "/good, /bad or /correct TEXT rates the last answer"


@dataclass
class Rater:
    """Keeps ratings as the site's `feedback` settings say.

    `consents`: what the person answered in this conversation; None before they were asked.
    """

    site: Site
    folder: Path  # the site's
    model: str
    terminal: bool
    consents: bool | None = None

    def take(self, line: str, history: list[dict[str, Any]]) -> bool:
        """Whether the line was a rating. A correction takes the answer's place in the history."""
        from halops.feedback.record import append, record

        word, _, text = line.partition(" ")
        if word not in COMMANDS:
            return False
        text = text.strip()
        if not history or history[-1]["role"] != "assistant":
            note("there is no answer to rate yet")
        elif word == "/correct" and not text:
            note("say what the answer should have been: /correct TEXT")
        elif self._may_keep():
            item = record(
                history, model=self.model, rating="good" if word == "/good" else "bad", correction=text or None
            )
            note(f"kept in {append(self.folder / self.site.feedback.folder, item)}")
        if word == "/correct" and text and history:
            history[-1] = history[-1] | {"content": text}
        return True

    def _may_keep(self) -> bool:
        setting = self.site.feedback.log
        if setting == "never":
            note("not kept: feedback.log in halops.yaml is never")
            return False
        if setting == "always":
            return True
        if self.consents is None and self.terminal:
            self.consents = click.confirm("May conversations that you rate be kept, to train on?", err=True)
        if not self.consents:
            note("not kept: without your consent" if self.terminal else "not kept: nobody can be asked here")
        return bool(self.consents)

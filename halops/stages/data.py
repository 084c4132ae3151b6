"""The data stage: a file of conversations in; token ids with trained spans out, split, rendered and counted.

Output, all of it readable by a person:

- `train.jsonl`, `heldout.jsonl`: rows `{"id", "domain", "line", "input_ids", "trained"}`; `trained` are half-open spans
  of token positions with loss; `part` is [number, of how many] where a conversation became several rows.
- `heldout.messages.jsonl`: the held-out conversations as messages.
- `train.samples.jsonl`: some training conversations as messages beside their `input_ids` and `trained` spans.
- `chat_template.jinja`: the template, for training and serving.
- `probes.jsonl`: the probes, if there are any.
- `stats.json`: counts, lengths, warnings.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from halops.data.check import Report, check, fitted_rows
from halops.data.render import Renderer
from halops.data.split import held_out
from halops.data.statistics import Statistics
from halops.data.tokenizer import ChatTokenizer
from halops.data.windows import Fitted, Row, Windows
from halops.stages.context import Metrics, StageContext

SAMPLES = 64
REPORT_EVERY = 1.0  # seconds


def run(context: StageContext) -> Metrics:
    """Prepare the dataset.

    Raises:
        DataError: with every problem of the dataset, each with its line.
        ModelError: the model's tokenizer or template can't be used.
    """
    profile = context.spec.profile
    rows = context.inputs / "dataset" / "rows.jsonl"
    tokenizer = ChatTokenizer(context.inputs / "base")
    template = tokenizer.serving_template(own=profile.serving.chat_template == "model")
    renderer = Renderer(tokenizer, template)
    report = _check(context, rows, tokenizer)
    _probes(context)
    keys = held_out([key for _, key in report.keys], profile.data.heldout_fraction)
    lines = {line for line, key in report.keys if key in keys}
    windows = Windows(renderer, profile.training.max_seq_length, profile.data.long_rows)
    statistics = _write_rows(context, rows, windows, report, lines)
    report.raise_for_problems()
    (context.output / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write_json(context.output / "stats.json", statistics.to_json(
        report, heldout_fraction=profile.data.heldout_fraction, max_seq_length=windows.limit,
        long_rows=profile.data.long_rows, end_of_turn=renderer.ends))  # fmt: skip
    return dict(statistics.metrics(report))


def _check(context: StageContext, rows: Path, tokenizer: ChatTokenizer) -> Report:
    on_bytes = _Reporter(context, "checking rows", rows.stat().st_size, "bytes")
    name = context.spec.dataset.uri.removeprefix("file://")
    expected = context.spec.profile.data.expected_examples
    report = check(rows, expected, name=name, special=tokenizer.special, on_bytes=on_bytes)
    report.raise_for_problems()
    for warning in report.warnings[:20]:
        context.progress(f"warning: {warning}")
    return report


def _write_rows(
    context: StageContext, rows: Path, windows: Windows, report: Report, heldout_lines: set[int]
) -> Statistics:
    """Write all files of rows, streaming."""
    statistics = Statistics()
    on_row = _Reporter(context, "tokenizing", len(report.keys), "rows")
    with ExitStack() as stack:
        files = _Files(stack, context.output)
        for number, fitted in enumerate(fitted_rows(rows, windows, report.findings), 1):
            held = fitted.conversation.line in heldout_lines
            statistics.add(fitted, held_out=held)
            files.write(fitted, windows.renderer, held_out=held)
            on_row(number)
    return statistics


class _Reporter:
    """Reports progress once a second, and at the end."""

    def __init__(self, context: StageContext, message: str, total: int, unit: str) -> None:
        self._context, self._message, self._total, self._unit = context, message, total, unit
        self._next = 0.0

    def __call__(self, done: int) -> None:
        clock = time.monotonic()
        if clock >= self._next or done == self._total:
            self._next = clock + REPORT_EVERY
            self._context.progress(self._message, done=done, total=self._total, unit=self._unit)


class _Files:
    """The open output files."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        def opened(name: str) -> TextIO:
            return stack.enter_context((folder / name).open("w", encoding="utf-8"))

        self._train, self._heldout = opened("train.jsonl"), opened("heldout.jsonl")
        self._messages, self._samples = opened("heldout.messages.jsonl"), opened("train.samples.jsonl")
        self._sampled = 0

    def write(self, fitted: Fitted, renderer: Renderer, *, held_out: bool) -> None:
        """Write one conversation's rows, and its messages where they are wanted."""
        for row in fitted.rows:
            _write_line(self._heldout if held_out else self._train, _row(fitted, row))
        if held_out:
            _write_line(self._messages, _chat(fitted, renderer))
        elif self._sampled < SAMPLES and fitted.whole:
            self._sampled += 1
            tokens = fitted.rows[0].tokens
            _write_line(self._samples, {**_chat(fitted, renderer), "input_ids": tokens.input_ids,
                                        "trained": tokens.trained})  # fmt: skip


def _row(fitted: Fitted, row: Row) -> dict[str, Any]:
    conversation = fitted.conversation
    value = {"id": conversation.id, "domain": conversation.domain, "line": conversation.line,
             "input_ids": row.tokens.input_ids, "trained": row.tokens.trained}  # fmt: skip
    return value if row.part == (1, 1) else {**value, "part": row.part}


def _chat(fitted: Fitted, renderer: Renderer) -> dict[str, Any]:
    conversation = fitted.conversation
    value = {"id": conversation.id, "domain": conversation.domain, "line": conversation.line,
             "messages": renderer.stored(conversation.messages)}  # fmt: skip
    return {**value, "tools": conversation.tools} if conversation.tools else value


def _write_line(stream: TextIO, value: dict[str, Any]) -> None:
    stream.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _probes(context: StageContext) -> None:
    """Hand the probes on, having read them once: a mistake in them should not show first after the training."""
    source = context.inputs / "dataset" / "probes.jsonl"
    if source.is_file():
        from halops.probes import load_probes

        load_probes(source)
        (context.output / "probes.jsonl").write_bytes(source.read_bytes())

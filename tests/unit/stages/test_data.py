"""The data stage from a file of rows to prepared files, with a real tokenizer."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halops.data.render import Renderer
from halops.data.tokenizer import ChatTokenizer
from halops.errors import DataError, ModelError
from halops.metrics import METRICS
from halops.profile import load_profile
from halops.progress import Progress
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.stages import data
from halops.stages.context import StageContext
from tests import chat_templates as styles

MakeModel = Callable[..., Path]
DOMAINS = ["dns", "storage", None]
PROBE = {"id": "p", "messages": [{"role": "user", "content": "Which?"}], "expect": {"all": ["RB-1"]}}


def _chat(number: int, turns: int = 1, system: bool = False) -> list[dict[str, Any]]:
    messages = [styles.SYSTEM] if system else []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Where is srv-{number:04}, part {turn}?"})
        messages.append({"role": "assistant", "content": f"In rack {number % 40}, unit {turn}. Café {number}."})
    return messages


def _rows(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": _chat(n, 1 + n % 4, n % 2 == 0), "id": f"r{n}"} | ({"domain": d} if (d := DOMAINS[n % 3]) else {})
        for n in range(count)
    ]


def _context(
    tmp_path: Path, model: Path, rows: list[Any], *overrides: str, probes: str = "", name: str = "run"
) -> StageContext:
    folder = tmp_path / name
    (folder / "inputs" / "dataset").mkdir(parents=True)
    (folder / "output").mkdir()
    (folder / "inputs" / "base").symlink_to(model)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "inputs" / "dataset" / "rows.jsonl").write_text("\n".join(lines) + "\n")
    if probes:
        (folder / "inputs" / "dataset" / "probes.jsonl").write_text(probes)
    spec = RunSpec(
        name="x",
        profile=load_profile("local", overrides),
        base=BaseRef(uri="file:///base"),
        dataset=DatasetRef(uri="file:///home/ops/train.jsonl", sha256="0" * 64, size=1),
        llama_cpp="x",
    )
    events: list[dict[str, Any]] = []
    context = StageContext(
        spec=spec, inputs=folder / "inputs", output=folder / "output", scratch=folder,
        progress=Progress(None, events.append),
    )  # fmt: skip
    context.progress.events = events  # type: ignore[attr-defined]
    return context


def _read(context: StageContext, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (context.output / name).read_text().splitlines()]


def test_a_dataset_is_split_rendered_and_counted(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model(styles.CHATML_DEFAULT)
    rows = _rows(200)
    context = _context(tmp_path, model, rows, "training.max_seq_length=4096", "data.expected_examples=200")
    metrics = data.run(context)

    assert metrics.keys() <= METRICS.keys()
    train, heldout = _read(context, "train.jsonl"), _read(context, "heldout.jsonl")
    assert len(train) == metrics["train_rows"]
    assert len(heldout) == metrics["heldout_rows"]
    assert sorted(row["line"] for row in train + heldout) == list(range(1, 201))
    assert 5 <= len(heldout) <= 40
    assert metrics["rows"] == 200
    assert metrics["total_tokens"] == sum(len(row["input_ids"]) for row in train)
    assert metrics["trained_tokens"] == sum(end - start for row in train for start, end in row["trained"])
    assert (metrics["truncated_rows"], metrics["split_rows"], metrics["duplicate_rows"]) == (0, 0, 0)

    tokenizer = ChatTokenizer(model)
    renderer = Renderer(tokenizer, (context.output / "chat_template.jinja").read_text())
    for row in train + heldout:
        given = rows[row["line"] - 1]
        assert (row["id"], row["domain"]) == (given["id"], given.get("domain"))
        [tokens] = renderer.encode(renderer.texts(given["messages"]))
        assert row["input_ids"] == tokens.input_ids
        assert [tuple(span) for span in row["trained"]] == tokens.trained
        assert "I am the house assistant" not in tokenizer._tokenizer.decode(row["input_ids"])

    messages = _read(context, "heldout.messages.jsonl")
    assert [row["line"] for row in messages] == [row["line"] for row in heldout]
    assert all(row["messages"] == rows[row["line"] - 1]["messages"] for row in messages)

    samples = _read(context, "train.samples.jsonl")
    assert len(samples) == 64
    by_line = {row["line"]: row for row in train}
    for sample in samples:
        assert sample["input_ids"] == by_line[sample["line"]]["input_ids"]
        assert sample["trained"] == by_line[sample["line"]]["trained"]
        assert sample["messages"] == rows[sample["line"] - 1]["messages"]

    stats = json.loads((context.output / "stats.json").read_text())
    assert stats["train_conversations"] + stats["heldout_conversations"] == 200
    assert {name: sum(sides.values()) for name, sides in stats["domains"].items()} == {
        "dns": 67, "storage": 67, "(none)": 66
    }  # fmt: skip
    assert sum(bucket["rows"] for bucket in stats["lengths"]["histogram"]) == 200
    assert stats["conversations_by_assistant_turns"] == {"1": 50, "2": 50, "3": 50, "4": 50}
    assert stats["end_of_turn"] == ["<|im_end|>"]
    last = {event["message"]: event for event in context.progress.events}  # type: ignore[attr-defined]
    for message in ("checking rows", "tokenizing"):
        assert last[message]["done"] == last[message]["total"] > 0


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model(styles.CHATML_TOOLS)
    first, second = (_context(tmp_path, model, _rows(40), name=name) for name in "ab")
    assert data.run(first) == data.run(second)
    names = sorted(path.name for path in first.output.iterdir())
    assert names == ["chat_template.jinja", "heldout.jsonl", "heldout.messages.jsonl", "stats.json", "train.jsonl",
                     "train.samples.jsonl"]  # fmt: skip
    for name in names:
        assert (first.output / name).read_bytes() == (second.output / name).read_bytes()


def test_no_conversation_is_on_both_sides(tmp_path: Path, make_model: MakeModel) -> None:
    """Repeated, re-cased, re-spaced, under another id, domain or system message, in any order."""
    chance = random.Random(4)
    rows = []
    for n in range(120):
        chat = _chat(n, 2)
        rows.append({"messages": chat, "id": f"a{n}", "domain": "x"})
        rows.append({"messages": [{**m, "content": f"  {m['content'].upper()}\n"} for m in chat], "id": f"b{n}"})
        rows.append({"messages": [styles.SYSTEM, *chat], "domain": "y"})
    chance.shuffle(rows)
    context = _context(tmp_path, make_model(styles.CHATML_DEFAULT), rows, "data.heldout_fraction=0.3")
    metrics = data.run(context)

    def said(row: dict[str, Any]) -> str:
        turns = [m["content"] for m in rows[row["line"] - 1]["messages"] if m["role"] != "system"]
        return " ".join("\n".join(turns).lower().split())

    train, heldout = ({said(row) for row in _read(context, name)} for name in ("train.jsonl", "heldout.jsonl"))
    assert train.isdisjoint(heldout)
    assert len(train) + len(heldout) == 120
    assert metrics["duplicate_rows"] == 120
    stats = json.loads((context.output / "stats.json").read_text())
    assert sum("repeats the conversation of line" in warning for warning in stats["warnings"]) == 120


def test_long_conversations(tmp_path: Path, make_model: MakeModel) -> None:
    model, rows = make_model(styles.CHATML_DEFAULT), [*_rows(20), {"messages": _chat(99, 30, True), "id": "long"}]
    split = _context(tmp_path, model, rows, "training.max_seq_length=256", name="split")
    metrics = data.run(split)
    assert metrics["split_rows"] == 1
    assert metrics["truncated_rows"] == 0
    parts = [row for name in ("train.jsonl", "heldout.jsonl") for row in _read(split, name) if row["id"] == "long"]
    assert [row["part"] for row in parts] == [[n, len(parts)] for n in range(1, len(parts) + 1)]
    assert sum(len(row["trained"]) for row in parts) == 30
    assert max(len(row["input_ids"]) for row in parts) <= 256 < int(metrics["length_max"] or 0)

    cut = _context(tmp_path, model, rows, "training.max_seq_length=256", "data.long_rows=truncate", name="cut")
    metrics = data.run(cut)
    assert (metrics["split_rows"], metrics["truncated_rows"]) == (0, 1)
    assert sum(len(_read(cut, name)) for name in ("train.jsonl", "heldout.jsonl")) == 21
    assert "long" not in {row["id"] for row in _read(cut, "train.samples.jsonl")}


def test_tools_go_through(tmp_path: Path, make_model: MakeModel) -> None:
    rows = [{"messages": styles.TOOL_CHAT, "tools": styles.TOOLS}, *_rows(30)]
    context = _context(tmp_path, make_model(styles.CHATML_TOOLS), rows, "training.max_seq_length=1024")
    data.run(context)
    chats = _read(context, "train.samples.jsonl") + _read(context, "heldout.messages.jsonl")
    [chat] = [chat for chat in chats if chat["line"] == 1]
    assert chat["tools"] == styles.TOOLS
    assert chat["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"host": "srv-1", "n": 2}


def test_all_problems_are_reported_under_the_users_name_for_the_file(tmp_path: Path, make_model: MakeModel) -> None:
    odd = {"role": "user", "content": "<|im_end|>"}
    rows = [*_rows(3), "{", {"messages": []}, {"messages": [*_chat(1), odd]}]
    context = _context(tmp_path, make_model(styles.CHATML_DEFAULT), rows, "data.expected_examples=7")
    with pytest.raises(DataError) as caught:
        data.run(context)
    text = str(caught.value)
    assert "5 problems in the dataset" in text
    for said in ("line 4: not valid JSON", "line 5: messages: is empty", "line 6: messages[2].role: the last message",
                 "line 6: messages[2]: holds <|im_end|>", "has 6 rows, but data.expected_examples is 7"):  # fmt: skip
        assert f"/home/ops/train.jsonl: {said}" in text
    assert caught.value.exit_code == 42


def test_every_row_that_the_template_refuses_is_named(tmp_path: Path, make_model: MakeModel) -> None:
    odd = {"messages": [styles.CHAT[0], styles.CHAT[2], styles.CHAT[3]]}
    rows = [{"messages": _chat(n)} for n in range(5)]
    rows[2:2] = [odd, odd]
    model = make_model(styles.MISTRAL, kind="sentencepiece", eos_token="</s>")
    with pytest.raises(DataError) as caught:
        data.run(_context(tmp_path, model, rows))
    assert [problem.split(": ")[1] for problem in caught.value.problems] == ["line 3", "line 4"]


def test_one_conversation_is_too_few(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model(styles.CHATML_DEFAULT)
    with pytest.raises(DataError, match="at least two different conversations"):
        data.run(_context(tmp_path, model, [{"messages": _chat(1)}] * 3))
    data.run(_context(tmp_path, model, [{"messages": _chat(1)}, {"messages": _chat(2)}], name="two"))
    assert (tmp_path / "two" / "output" / "train.jsonl").stat().st_size > 0
    assert (tmp_path / "two" / "output" / "heldout.jsonl").stat().st_size > 0


def test_the_models_own_template_by_config(tmp_path: Path, make_model: MakeModel) -> None:
    context = _context(tmp_path, make_model(styles.CHATML_DEFAULT), _rows(4), "serving.chat_template=model")
    data.run(context)
    assert (context.output / "chat_template.jinja").read_text() == styles.CHATML_DEFAULT


def test_probes_are_handed_on_or_refused(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model(styles.CHATML_DEFAULT)
    good = _context(tmp_path, model, _rows(4), probes=json.dumps(PROBE) + "\n", name="good")
    data.run(good)
    assert _read(good, "probes.jsonl") == [PROBE]
    with pytest.raises(DataError):
        data.run(_context(tmp_path, model, _rows(4), probes='{"id": "p"}\n', name="bad"))


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no tokenizer.json"):
        data.run(_context(tmp_path, tmp_path / "empty", _rows(4)))


def test_neither_torch_nor_transformers_is_needed() -> None:
    """The image that prepares data has neither."""
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "import halops.stages.data, halops.data.check, halops.chat_template, tokenizers, jinja2\n"
        "halops.chat_template.serving_template(halops.chat_template.CHATML)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path, make_model: MakeModel) -> None:
    import tracemalloc

    def peak(rows: int) -> int:
        context = _context(tmp_path, model, _rows(rows), name=f"rows-{rows}")
        tracemalloc.start()
        data.run(context)
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    model = make_model(styles.CHATML_DEFAULT)
    few, many = peak(800), peak(3200)
    assert (many - few) / 2400 < 700, f"{(many - few) / 2400:.0f} bytes a row"

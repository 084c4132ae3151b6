"""Rows of a dataset: one JSON object a line, `{"messages": [...]}` with `domain`, `id` and `tools` if you like."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halops.data.findings import Findings, kind, show
from halops.data.messages import Message, check_messages, check_tools, strings
from halops.errors import DataError, NotFoundError

MAX_LINE = 64 * 2**20  # bytes; a longer line is no conversation
ROW_KEYS = ("messages", "domain", "id", "tools")
EXPECTED = 'expected {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'

# Layouts of other tools, by the keys that give them away.
LAYOUTS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"conversations"}), "ShareGPT's layout (conversations, from, value)"),
    (frozenset({"conversation"}), "a ShareGPT layout (conversation)"),
    (frozenset({"instruction", "output"}), "Alpaca's layout (instruction, input, output)"),
    (frozenset({"prompt", "completion"}), "a prompt and completion layout"),
    (frozenset({"prompt", "response"}), "a prompt and response layout"),
    (frozenset({"prompt", "chosen"}), "a preference layout (prompt, chosen, rejected)"),
    (frozenset({"question", "answer"}), "a question and answer layout"),
    (frozenset({"input", "output"}), "an input and output layout"),
    (frozenset({"text"}), "a plain text layout"),
)

# What a file begins with when it isn't lines of JSON in UTF-8.
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is compressed by gzip: unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd: unpack it first (unzstd)"),
    (b"PK\x03\x04", "is a zip archive: unpack it first"),
    (b"PAR1", "is Parquet: write it as JSON lines first"),
    (b"\xff\xfe", "is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16: save it as UTF-8"),
)

# Control tokens of common models, for a check without a tokenizer.
COMMON_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>",
                  "<|start_header_id|>", "<|end_header_id|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>",
                  "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<s>", "</s>")  # fmt: skip

_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One valid row. `messages` and `tools` are in the shape in which templates get them."""

    line: int
    id: str
    domain: str | None
    messages: list[Message]
    tools: list[dict[str, Any]] | None


class RowReader:
    """Reads conversations from a file, reporting all that is wrong with it.

    Args:
        findings: where problems and warnings go.
        special: texts of control tokens that no message may hold.
        certain: whether they are this model's; otherwise they only warn.
    """

    def __init__(self, findings: Findings, special: tuple[str, ...] = COMMON_SPECIAL, *, certain: bool = False) -> None:
        self._findings = findings
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._certain = certain

    def read(self, path: Path) -> Iterator[tuple[int, Conversation | None]]:
        """For each line that isn't blank, the bytes read so far and its conversation (None: a problem was reported).

        Raises NotFoundError or DataError if the file can't be read at all.
        """
        done = 0
        for line, raw in read_lines(path):
            done += len(raw)
            if line == 1:
                raw = self._first(raw)
            if raw.strip():
                yield done, self._row(raw, line)

    def _first(self, raw: bytes) -> bytes:
        if raw.startswith(b"\xef\xbb\xbf"):
            self._findings.warn("begins with a byte order mark, ignored", line=1)
            raw = raw[3:]
        for magic, text in MAGIC:
            if raw.startswith(magic):
                raise DataError(f"not JSON lines: the file {text}", where=self._findings.name)
        if raw.lstrip().startswith(b"["):
            self._findings.problem("begins a JSON array: write one object a line (jq -c '.[]' FILE)", line=1)
        return raw

    def _row(self, raw: bytes, line: int) -> Conversation | None:
        try:
            return self._conversation(raw, line)
        except RecursionError:
            self._findings.problem("not valid JSON: nested too deeply", line=line)
            return None

    def _conversation(self, raw: bytes, line: int) -> Conversation | None:
        def problem(field: str, text: str) -> None:
            self._findings.problem(text, line=line, field=field)

        def warn(field: str, text: str) -> None:
            self._findings.warn(text, line=line, field=field)

        def unknown(field: str) -> None:
            self._findings.unknown_key(field, line)

        before = self._findings.problem_count
        row = _parse(raw, problem)
        if row is None:
            return None
        if "messages" not in row:
            problem("messages", _missing(row))
            return None
        for key in sorted(row.keys() - set(ROW_KEYS)):
            unknown(key[:120])
        messages = check_messages(row["messages"], problem, unknown)
        tools = check_tools(row.get("tools"), problem)
        name, domain = _label(row, "id", problem), _label(row, "domain", problem)
        self._check_text(row, problem, warn)
        if messages is None or self._findings.problem_count > before:
            return None
        return Conversation(line, name or f"line-{line}", domain, messages, tools)

    def _check_text(self, row: Mapping[str, Any], problem: Any, warn: Any) -> None:
        """Characters and control-token texts that would not come through as written."""
        messages = row["messages"] if isinstance(row["messages"], list) else []
        fields = [(f"messages[{index}]", message) for index, message in enumerate(messages)]
        for field, value in (*fields, *((key, row.get(key)) for key in ("tools", "id", "domain"))):
            text = "\n".join(strings(value))
            if _SURROGATE.search(text):
                problem(field, "holds half a surrogate pair (\\ud800 to \\udfff), which is no character")
            if "\0" in text:
                problem(field, "holds a NUL character")
            elif found := _CONTROL.search(text):
                warn(field, f"holds the control character {found[0]!r}")
            if found := self._special.search(text):
                what = f"holds {found[0]}, which the model reads as a control token"
                problem(field, f"{what}: write it in another way") if self._certain else warn(field, f"{what} perhaps")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file, read one at a time. A line over MAX_LINE comes as its beginning only."""
    try:
        with path.open("rb") as stream:
            number = 0
            while raw := stream.readline(MAX_LINE + 1):
                number += 1
                yield number, raw
                while len(raw) > MAX_LINE and not raw.endswith(b"\n"):
                    raw = stream.readline(MAX_LINE + 1)
    except FileNotFoundError as error:
        raise NotFoundError("no such file", where=str(path)) from error
    except IsADirectoryError as error:
        raise DataError("a folder, not a file of rows", where=str(path), remedy="name the .jsonl file") from error
    except OSError as error:
        raise NotFoundError(f"can't read the file: {error.strerror}", where=str(path)) from error


def _parse(raw: bytes, problem: Any) -> dict[str, Any] | None:
    """The line's JSON object, or None once a problem is reported."""
    if len(raw) > MAX_LINE:
        problem("", f"is over {MAX_LINE // 2**20} MiB: one conversation a line is expected")
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem("", f"not valid UTF-8 at byte {error.start + 1} of the line (0x{raw[error.start]:02x})")
        return None
    repeated: list[str] = []
    try:
        row = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, repeated), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem("", f"not valid JSON: {error.msg} at column {error.colno}")
        return None
    except ValueError as error:  # a constant that isn't JSON, a number of thousands of digits
        problem("", f"not valid JSON: {error}")
        return None
    if not isinstance(row, dict):
        problem("", f"{kind(row)}, not an object: {EXPECTED}")
        return None
    for key in repeated:
        problem(key[:120], "the key is given twice in one object")
    return None if repeated else row


def _object(pairs: list[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        repeated.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return result


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _missing(row: Mapping[str, Any]) -> str:
    for keys, name in LAYOUTS:
        if keys <= row.keys():
            return f"is missing: the row looks like {name}; {EXPECTED}"
    close = difflib.get_close_matches("messages", list(row), n=1)
    return f"is missing{f' (is {show(close[0])} meant?)' if close else ''}: {EXPECTED}"


def _label(row: Mapping[str, Any], key: str, problem: Any) -> str | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and key == "id":
        return str(value)
    if not isinstance(value, str):
        problem(key, f"must be a string, not {kind(value)}")
        return None
    return value

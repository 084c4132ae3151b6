"""The messages of one conversation: roles, their order, and what each may hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from halops.data.findings import kind, show

Message = dict[str, Any]
Say = Callable[[str, str], None]  # field, what is wrong with it

ROLES = ("system", "user", "assistant", "tool")
OTHER_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
               "developer": "system", "function": "tool", "ipython": "tool"}  # fmt: skip
MESSAGE_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name"})


def check_messages(value: Any, problem: Say, unknown: Callable[[str], None]) -> list[Message] | None:
    """The messages with nothing but known keys, or None if a problem was reported.

    Args:
        value: the row's `messages`.
        problem: called with a field path and what is wrong there.
        unknown: called with the path of a key that means nothing here.
    """
    if not isinstance(value, list):
        problem("messages", f"must be a list of messages, not {kind(value)}")
        return None
    if not value:
        problem("messages", "is empty")
        return None
    problems = _Counter(problem)
    messages = [_message(item, f"messages[{index}]", problems, unknown) for index, item in enumerate(value)]
    roles = [message["role"] if message else None for message in messages]
    _check_order(roles, messages, problems)
    return None if problems.count else [message for message in messages if message]


class _Counter:
    def __init__(self, say: Say) -> None:
        self._say = say
        self.count = 0

    def __call__(self, field: str, text: str) -> None:
        self.count += 1
        self._say(field, text)


def _message(item: Any, field: str, problem: Say, unknown: Callable[[str], None]) -> Message | None:
    if not isinstance(item, dict):
        problem(field, f"must be an object with role and content, not {kind(item)}")
        return None
    for key in sorted(item.keys() - MESSAGE_KEYS):
        unknown(f"messages[].{key}"[:120])
    role = item.get("role")
    if role not in ROLES:
        _bad_role(item, role, field, problem)
        return None
    message: Message = {"role": role}
    calls = item.get("tool_calls")
    if calls:  # null and [] mean none
        if role != "assistant":
            problem(f"{field}.tool_calls", f"only an assistant calls tools, not role {role}")
        message["tool_calls"] = _tool_calls(calls, f"{field}.tool_calls", problem)
    _check_content(item, field, problem, may_be_empty=bool(calls))
    message["content"] = item.get("content") if isinstance(item.get("content"), str) else ""
    for key in ("tool_call_id", "name"):
        if item.get(key) is not None:
            message[key] = item[key]
            if not isinstance(item[key], str):
                problem(f"{field}.{key}", f"must be a string, not {kind(item[key])}")
    return message


def _bad_role(item: Mapping[str, Any], role: Any, field: str, problem: Say) -> None:
    expected = f"must be one of {', '.join(ROLES)}"
    if "role" not in item:
        problem(f"{field}.role", f"is missing: {expected}")
    elif isinstance(role, str) and (other := OTHER_NAMES.get(role.strip().lower(), role.strip().lower())) in ROLES:
        problem(f"{field}.role", f"is {show(role)}: {expected}; did you mean {other}?")
    else:
        problem(f"{field}.role", f"is {show(role)}: {expected}")


def _check_content(item: Mapping[str, Any], field: str, problem: Say, *, may_be_empty: bool) -> None:
    content = item.get("content")
    field = f"{field}.content"
    if content is None or content == "":
        if not may_be_empty:
            problem(field, "is missing" if "content" not in item else "is null" if content is None else "is empty")
    elif isinstance(content, list) and all(isinstance(part, dict) for part in content):
        problem(field, "is a list of parts: only text is trained on; write it as one string")
    elif not isinstance(content, str):
        problem(field, f"must be a string, not {kind(content)}")
    elif not content.strip() and not may_be_empty:
        problem(field, "is only white space")


def _check_order(roles: Sequence[str | None], messages: Sequence[Message | None], problem: Say) -> None:
    """Who may follow whom: [system] user (assistant (tool+ assistant)*) user ... assistant."""
    before: str | None = "start"
    for index, role in enumerate(roles):
        field = f"messages[{index}].role"
        if role == "system" and index > 0:
            problem(field, "a system message can only be the first")
        elif role == "assistant" and before in ("start", "system"):
            problem(field, "the assistant can't speak first: the user's turn comes before")
        elif role == "assistant" and before == "assistant":
            problem(field, "two assistant messages in a row: join them, or put the user's turn between")
        elif role == "tool" and before != "tool" and not _calls(messages, index - 1):
            problem(field, "a tool's answer must follow an assistant message with tool_calls")
        before = role
    if None in roles:
        return
    if "assistant" not in roles:
        problem("messages", "no assistant turn: there is nothing to learn")
    elif roles[-1] != "assistant":
        problem(f"messages[{len(roles) - 1}].role", f"the last message must be the assistant's, not {roles[-1]}'s")


def _calls(messages: Sequence[Message | None], index: int) -> bool:
    if index < 0:
        return False
    message = messages[index]
    return message is None or bool(message.get("tool_calls"))


def _tool_calls(value: Any, field: str, problem: Say) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        problem(field, f"must be a list, not {kind(value)}")
        return []
    return [call for index, item in enumerate(value) if (call := _tool_call(item, f"{field}[{index}]", problem))]


def _tool_call(item: Any, field: str, problem: Say) -> dict[str, Any] | None:
    function = item.get("function") if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        problem(field, 'must look like {"type": "function", "function": {"name": ..., "arguments": {...}}}')
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            problem(f"{field}.function.arguments", "is a string that isn't JSON")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict) and not isinstance(function.get("arguments"), str):
        problem(f"{field}.function.arguments", f"must be an object, not {kind(arguments)}")
    function = {"name": function["name"], "arguments": plain_numbers(arguments)}
    call: dict[str, Any] = {"type": "function", "function": function}
    if isinstance(item.get("id"), str) and item["id"]:
        call["id"] = item["id"]
    return call


def check_tools(value: Any, problem: Say) -> list[dict[str, Any]] | None:
    """A row's `tools` in the shape that llama-server gives to a template; None if there are none."""
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        problem("tools", f"must be a list, not {kind(value)}")
        return None
    return [tool for index, item in enumerate(value) if (tool := _tool(item, f"tools[{index}]", problem))]


def _tool(item: Any, field: str, problem: Say) -> dict[str, Any] | None:
    function = item.get("function") if isinstance(item, dict) and item.get("type", "function") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        problem(field, 'must look like {"type": "function", "function": {"name": ..., "parameters": {...}}}')
        return None
    description, parameters = function.get("description") or "", function.get("parameters") or {}
    if not isinstance(description, str):
        problem(f"{field}.function.description", f"must be a string, not {kind(description)}")
    if not isinstance(parameters, dict):
        problem(f"{field}.function.parameters", f"must be an object, not {kind(parameters)}")
    function = {"name": function["name"], "description": description, "parameters": plain_numbers(parameters)}
    return {"type": "function", "function": function}


def plain_numbers(value: Any) -> Any:
    """A JSON value whose whole numbers are written without a point: llama-server makes 1.0 into 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    return [plain_numbers(item) for item in value] if isinstance(value, list) else value


def strings(value: Any) -> list[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return []

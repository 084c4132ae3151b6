"""The OpenAI Python client against a model that HALops serves. `pip install openai`, then

export OPENAI_BASE_URL=http://ops.serving.svc/v1 OPENAI_API_KEY=...      # one line of the Secret of API keys
python openai_client.py "lock-vel-03 is down. What do I run first?"
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

client = openai.OpenAI(timeout=120, max_retries=2)  # the address and the key come from the environment
MODEL = "ops"  # llama-server serves one model and takes any name
TOOL = {
    "type": "function",
    "function": {
        "name": "restart",
        "description": "Restart a service",
        "parameters": {
            "type": "object",
            "properties": {"service": {"enum": ["web", "db"]}},
            "required": ["service"],
        },
    },
}


def chat(question: str) -> str:
    """A whole answer."""
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=128
    )
    return answer.choices[0].message.content or ""


def stream(question: str) -> str:
    """The answer as it is written, and at the end what it cost in tokens."""
    pieces = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=128,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    text = ""
    for piece in pieces:
        if piece.usage:
            print(f"\n{piece.usage.prompt_tokens} + {piece.usage.completion_tokens} tokens")
        for choice in piece.choices:
            text += choice.delta.content or ""
            print(choice.delta.content or "", end="", flush=True)
    return text


def as_json(question: str) -> dict[str, object]:
    """An answer that fits a JSON schema, whatever the model would like to say: sampling is held to it."""
    schema = {
        "type": "object",
        "properties": {"severity": {"enum": ["low", "high"]}, "page_somebody": {"type": "boolean"}},
        "required": ["severity", "page_somebody"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=128,
        response_format={"type": "json_schema", "json_schema": {"name": "triage", "schema": schema, "strict": True}},
    )  # fmt: skip
    found: dict[str, object] = json.loads(answer.choices[0].message.content or "{}")
    return found


def tool_call(question: str, **more: Any) -> tuple[str, dict[str, object]] | None:
    """A function's name and arguments; None if the model talked instead.

    It takes a model that knows tools and whose own template shows them (`server.chatTemplate: model` in the chart's
    values; `chatml` leaves them out without a word). `required` holds a call to the schema; the model may still talk
    before it, for as long as max_tokens lets it.
    """
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=256,
        tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **more,  # type: ignore[list-item]
    )  # fmt: skip
    for call in answer.choices[0].message.tool_calls or ():
        if call.type == "function":
            return call.function.name, json.loads(call.function.arguments)
    return None


def until(question: str, stop: str) -> str:
    """An answer that ends before a text."""
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=128, stop=[stop]
    )
    return answer.choices[0].message.content or ""


def logprobs(question: str) -> list[tuple[str, float]]:
    """The first tokens of the answer with the natural logarithm of their probability."""
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=5,
        logprobs=True, top_logprobs=3,
    )  # fmt: skip
    found = answer.choices[0].logprobs
    return [(item.token, item.logprob) for item in (found.content or [] if found else [])]


def errors(question: str) -> dict[str, str]:
    """What a wrong key and a question that is too long end with."""
    found = {}
    try:
        client.with_options(api_key="wrong").models.list()
        client.with_options(api_key="wrong").chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}]
        )
    except openai.AuthenticationError as error:
        found["wrong key"] = f"{error.status_code} {error.message}"
    try:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 100_000}])
    except openai.BadRequestError as error:  # exceed_context_size_error: the body says how long, and what fits
        found["too long"] = f"{error.status_code} {error.message}"
    return found


def main() -> None:
    question = sys.argv[1] if len(sys.argv) > 1 else "lock-vel-03 is down. What do I run first?"
    print("chat:     ", chat(question))
    print("stream:   ", end="")
    stream(question)
    print("JSON:     ", as_json(question))
    print("tool call:", tool_call("The web service hangs. Restart it."))
    print("until '.':", until(question, "."))
    print("logprobs: ", logprobs(question))
    for what, said in errors(question).items():
        print(f"{what}: {said}")


if __name__ == "__main__":
    main()

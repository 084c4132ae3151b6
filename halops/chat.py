"""Talk to an OpenAI-compatible chat endpoint: whole answers or a stream of text, with clear errors."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from halops.errors import ConfigError, HalopsError, NotFoundError, TransientError

Message = Mapping[str, Any]
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0


@dataclass(frozen=True)
class Answer:
    """One answer, and how it ended.

    `finish_reason` is "stop" when the model ended it and "length" when a limit did. `usage` counts tokens
    (`prompt_tokens`, `completion_tokens`); `timings` is llama-server's own, empty elsewhere.
    """

    text: str
    finish_reason: str
    usage: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class ChatClient:
    """A chat endpoint.

    Args:
        base_url: `http://host:port`, with or without `/v1`.
        api_key: sent as a bearer token.
        model: the name that the endpoint knows the model by; llama-server takes any.

    Raises, from each call:
        TransientError: nobody answers, the model is still loading, or the connection broke.
        ConfigError: not a URL, a key that is missing or wrong, a conversation longer than the context, bad parameters.
        NotFoundError: something else than a chat endpoint answers.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, model: str = "halops", timeout: float = ANSWER_SECONDS
    ) -> None:
        host = _host(base_url)
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            trust_env=not _is_loopback(host),  # a proxy can't reach our loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def complete(self, messages: Sequence[Message], **params: Any) -> Answer:
        """The whole answer to a conversation that ends with a user's turn.

        Args:
            params: of the endpoint, such as `temperature=0`, `max_tokens=160`.
        """
        return _answer(self.post("/v1/chat/completions", self._body(messages, params)), self.base_url)

    def stream(self, messages: Sequence[Message], **params: Any) -> AnswerStream:
        """The answer as it is written: iterate for pieces of text, then look at `.answer`."""
        return AnswerStream(self, self._body(messages, params) | {"stream": True})

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST JSON, get a JSON object."""
        try:
            response = self._http.post(path, json=body)
            if response.status_code != 200:
                raise _refusal(response.status_code, response.text, self.base_url)
            value = response.json()
        except httpx.HTTPError as error:
            raise _unreachable(error, self.base_url) from error
        except ValueError as error:
            raise NotFoundError("no chat endpoint: the answer isn't JSON", where=self.base_url) from error
        if not isinstance(value, dict):
            raise NotFoundError("no chat endpoint: the answer isn't a JSON object", where=self.base_url)
        return value

    def _body(self, messages: Sequence[Message], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": [dict(message) for message in messages], **params}

    def events(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON objects of a streamed answer (server-sent events)."""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, response.read().decode(errors="replace"), self.base_url)
                for line in response.iter_lines():
                    kind, _, data = line.partition(":")
                    if data.strip() == "[DONE]":
                        return
                    if kind in ("data", "error"):
                        yield _event(kind, data, self.base_url)
        except httpx.HTTPError as error:
            raise _unreachable(error, self.base_url) from error


class AnswerStream:
    """Pieces of text as they come. After the last one, `answer` is the whole answer."""

    def __init__(self, client: ChatClient, body: dict[str, Any]) -> None:
        self._client, self._body = client, body
        self._parts: list[str] = []
        self._reason = ""
        self._usage: dict[str, int] = {}
        self._timings: dict[str, float] = {}

    def __iter__(self) -> Iterator[str]:
        for event in self._client.events(self._body):
            self._usage = event.get("usage") or self._usage
            self._timings = event.get("timings") or self._timings
            for choice in event.get("choices") or ():
                self._reason = choice.get("finish_reason") or self._reason
                if text := (choice.get("delta") or {}).get("content"):
                    self._parts.append(text)
                    yield text
        if not self._reason:
            raise TransientError("the answer broke off", where=self._client.base_url, remedy="ask again")

    @property
    def answer(self) -> Answer:
        """What came so far; whole once the iteration is over."""
        return Answer("".join(self._parts), self._reason, self._usage, self._timings)


def _answer(value: dict[str, Any], where: str) -> Answer:
    try:
        choice = value["choices"][0]
        text, reason = choice["message"].get("content") or "", choice.get("finish_reason") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NotFoundError("no chat endpoint: the answer has no choices", where=where) from error
    return Answer(text, reason, value.get("usage") or {}, value.get("timings") or {}, value)


def _event(kind: str, data: str, where: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise TransientError("the answer broke off", where=where, remedy="ask again") from error
    if kind == "error" or "error" in event:
        detail = event.get("error", event)
        raise _refusal(int(detail.get("code") or 500), json.dumps({"error": detail}), where)
    return dict(event)


def _refusal(status: int, text: str, where: str) -> HalopsError:
    """The error for an HTTP status that isn't 200."""
    detail = _detail(text)
    message = str(detail.get("message") or text.strip()[:300] or f"HTTP status {status}")
    if status in (401, 403):
        return ConfigError("the endpoint refuses the API key", where=where, remedy="give the key it was started with")
    if detail.get("type") == "exceed_context_size_error":
        size = f"{detail.get('n_prompt_tokens')} tokens, the context has {detail.get('n_ctx')}"
        remedy = "begin a new conversation, or serve with a larger serving.ctx_size"
        return ConfigError(f"the conversation is too long: {size}", where=where, remedy=remedy)
    if status == 503:
        return TransientError(f"the endpoint isn't ready: {message}", where=where, remedy="try again in a moment")
    if status == 404:
        return NotFoundError(f"no chat endpoint: {message}", where=where)
    if status >= 500 or status == 429:
        return TransientError(f"the endpoint failed: {message}", where=where, remedy="look at its log, then try again")
    return ConfigError(f"the endpoint refuses the request: {message}", where=where)


def _detail(text: str) -> dict[str, Any]:
    try:
        detail = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return detail if isinstance(detail, dict) else {"message": detail}


def _unreachable(error: httpx.HTTPError, where: str) -> HalopsError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return TransientError("nobody answers there", where=where, remedy="start a server: halops serve")
    if isinstance(error, httpx.TimeoutException):
        return TransientError("no answer in time", where=where, remedy="try again, or ask for fewer tokens")
    if isinstance(error, httpx.UnsupportedProtocol):
        return ConfigError(f"no URL of a chat endpoint: {error}", where=where)
    return TransientError(f"the connection broke: {error}", where=where, remedy="ask again")


def _host(base_url: str) -> str:
    try:
        url = urlsplit(base_url)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return url.hostname
    except ValueError:  # a port that is no number
        pass
    raise ConfigError(f"{base_url!r} is no URL of a chat endpoint", remedy="give one like http://127.0.0.1:8081")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

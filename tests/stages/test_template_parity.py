"""The serving template against the real llama-server: the same text and the same token ids for every prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from halops.chat_template import ChatTemplate, serving_template
from halops.data.messages import check_messages
from halops.data.render import Renderer
from halops.data.tokenizer import ChatTokenizer
from halops.llamacpp.client import LlamaClient
from halops.llamacpp.server import LlamaServer
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving
from tests import chat_templates as styles

pytestmark = pytest.mark.slow  # a model is converted, and servers are started
Messages = list[dict[str, Any]]
Serve = Callable[[str], LlamaClient]

CHATS: list[Messages] = [
    styles.CHAT,
    [styles.SYSTEM, *styles.CHAT],
    [{"role": "user", "content": "  spaces, a tab\tand a newline \n"}, {"role": "assistant", "content": "trailing \n"}],
    [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "\n\n   leading\n"}],
    [{"role": "user", "content": "{{ 7 * 7 }} {% if %} <b>&amp;</b> \\n \"q\" 'q'\r\nx"}, styles.CHAT[1]],
    [{"role": "user", "content": "e\u0301 日本 🙂 \u200b ﬁ 10.2.33.4:8081 0x1F"}, styles.CHAT[1]],
]
ODD_NUMBERS = [
    {"role": "user", "content": "ports \u0663\u0664, \u00bd a rack"},
    styles.CHAT[1],
]  # digits, but not ASCII
TOOL_CHATS: list[tuple[Messages, list[dict[str, Any]] | None]] = [
    (styles.TOOL_CHAT, styles.TOOLS),
    ([styles.SYSTEM, *styles.TOOL_CHAT], styles.TOOLS),
    (styles.TOOL_CHAT, None),
    (styles.CHAT, styles.TOOLS),
]


@pytest.fixture
def serve(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> Iterator[Serve]:
    """A server with a given template file, or llama.cpp's own `chatml`."""
    with ExitStack() as stack:

        def start(template: str) -> LlamaClient:
            flags: tuple[str, ...] = ("--chat-template", "chatml")
            if template != "chatml":
                path = tmp_path / "template.jinja"
                path.write_text(template)
                flags = ("--chat-template-file", str(path))
            serving = Serving(file="f16", ctx_size=256, threads=1, chat_template="model")
            server = LlamaServer(llama_cpp, tiny_gguf, serving, log=tmp_path / "log", port=0, extra=flags)
            return stack.enter_context(LlamaClient(stack.enter_context(server).url))

        yield start


def _prompts(chat: Messages) -> list[Messages]:
    """The chat before each of the assistant's turns: what a server is asked with."""
    return [chat[:index] for index, message in enumerate(chat) if message["role"] == "assistant"]


def _as_row(messages: Messages) -> Messages:
    checked = check_messages([*messages, {"role": "assistant", "content": "."}], pytest.fail, pytest.fail)
    assert checked is not None
    return checked[:-1]


def test_a_chatml_model_is_trained_on_the_ids_that_llama_servers_chatml_makes(smollm2: Path, serve: Serve) -> None:
    tokenizer = ChatTokenizer(smollm2)
    renderer = Renderer(tokenizer, tokenizer.serving_template())
    chatml, ours = serve("chatml"), serve(renderer.template.source)
    for chat in CHATS:
        trained_after = [
            row.input_ids[:start] for row in renderer.encode(renderer.texts(chat)) for start, _ in row.trained
        ]
        served = []
        for prompt in _prompts(chat):
            text = chatml.render(prompt)
            assert text == ours.render(prompt)
            assert text == renderer.template.render(prompt, add_generation_prompt=True)
            served.append(chatml.tokenize(text))
        assert sorted(trained_after) == sorted(served)


def test_digits_that_are_not_ascii(smollm2: Path, serve: Serve) -> None:
    tokenizer = ChatTokenizer(smollm2)
    text = Renderer(tokenizer, tokenizer.serving_template()).template.render(ODD_NUMBERS)
    assert serve("chatml").tokenize(text) == tokenizer.encode([text])[0].ids


@pytest.mark.parametrize(
    "name",
    ["CHATML_DEFAULT", "CHATML_TOOLS", "LLAMA3", "MISTRAL", "PHI3", "NO_SYSTEM", "LAST_SYSTEM", "REASONING", "SWITCH"],
)
def test_both_engines_render_the_same_text(smollm2: Path, serve: Serve, name: str) -> None:
    """With and without tools. A template that refuses a chat refuses it in both."""
    tokenizer = ChatTokenizer(smollm2)
    template = serving_template(getattr(styles, name).replace("{{ bos_token }}", "").replace("{{- bos_token }}", ""))
    renderer = Renderer.__new__(Renderer)  # SmolLM2 lacks the special tokens of other families
    renderer.tokenizer, renderer.template = tokenizer, ChatTemplate(template, bos=tokenizer.bos, eos=tokenizer.eos)
    server = serve(template)
    tools = TOOL_CHATS if name == "CHATML_TOOLS" else []
    compared = 0
    for chat, given in [*((chat, None) for chat in CHATS), *tools]:
        for prompt in _prompts(chat):
            expected = renderer.template.render(renderer._as_served(_as_row(prompt)), given, add_generation_prompt=True)
            assert server.render(prompt, given) == expected
            compared += 1
    assert compared >= 8


def test_a_chatml_template_with_tools_gives_chatml_where_there_are_none(serve: Serve) -> None:
    chatml, ours = serve("chatml"), serve(serving_template(styles.CHATML_TOOLS))
    for chat in CHATS:
        for prompt in _prompts(chat):
            assert ours.render(prompt) == chatml.render(prompt)
            assert ours.tokenize(ours.render(prompt)) == chatml.tokenize(chatml.render(prompt))
    assert ours.render(styles.CHAT[:1], styles.TOOLS) != chatml.render(styles.CHAT[:1])

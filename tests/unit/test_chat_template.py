"""The serving template: ChatML as llama-server has it, or the model's own, and nothing that changes by the day."""

from __future__ import annotations

from typing import Any

import pytest

from halops.chat_template import (
    CHATML,
    ChatTemplate,
    chatml,
    choose,
    is_chatml,
    is_plain_chatml,
    serving_template,
    takes_argument_objects,
    takes_system,
    writes_tools,
)
from halops.errors import DataError, ModelError
from tests import chat_templates as styles

CHATS: list[list[dict[str, Any]]] = [
    styles.CHAT[:1],
    styles.CHAT,
    [styles.SYSTEM, *styles.CHAT],
    [styles.SYSTEM, {"role": "user", "content": "  two spaces before\tand a newline after\n"}],
    [{"role": "user", "content": "{{ 7 * 7 }} {% raw %} \\n 'quoted' \"too\" <b>&amp;</b>"}],
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}, {"role": "assistant", "content": "\nx "}],
]
ALL = [name for name in dir(styles) if name.isupper() and isinstance(getattr(styles, name), str)]
CHATML_STYLES = ["CHATML_DEFAULT", "CHATML_TOOLS"]
CALL = {"type": "function", "function": {"name": "ping", "arguments": {"host": "srv-1"}}}
TOOL_CHAT = [styles.TOOL_CHAT[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}, *styles.TOOL_CHAT[2:]]


@pytest.mark.parametrize("name", ALL)
def test_chatml_is_told_by_what_it_renders(name: str) -> None:
    assert is_chatml(getattr(styles, name)) == (name in CHATML_STYLES)


@pytest.mark.parametrize(
    "template",
    [CHATML, "{{ bos_token }}" + CHATML, CHATML.replace("message.content", "message.content | trim")],
)
def test_variants_of_chatml(template: str) -> None:
    assert is_chatml(template)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("<|im_end|>", "<|endoftext|>"),
        CHATML + "{{ '<think>' }}",
        CHATML.replace("assistant\\n", "assistant\\n<think>\\n"),
        "{{ bos_token + messages[0]['content'] }}",
        "{{ raise_exception('no') }}",
        "",
    ],
)
def test_what_is_not_chatml(template: str) -> None:
    assert not is_chatml(template)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("name", CHATML_STYLES)
def test_a_chatml_model_is_served_with_chatml_and_no_injected_system(
    name: str, generate: bool, chat: list[dict[str, Any]]
) -> None:
    template = ChatTemplate(serving_template(getattr(styles, name)))
    assert template.render(chat, add_generation_prompt=generate) == chatml(chat, add_generation_prompt=generate)


def test_the_tool_form_stays_less_the_default_system_text() -> None:
    own, served = ChatTemplate(styles.CHATML_TOOLS), ChatTemplate(serving_template(styles.CHATML_TOOLS))
    with_system = [styles.SYSTEM, *TOOL_CHAT]
    assert served.render(with_system, styles.TOOLS) == own.render(with_system, styles.TOOLS)
    assert "ping" in served.render(with_system, styles.TOOLS)
    without = served.render(TOOL_CHAT, styles.TOOLS)
    assert without == own.render(TOOL_CHAT, styles.TOOLS).replace("I am the tool assistant.", "")
    # Tool messages without a list of tools: no system block at all.
    assert served.render(TOOL_CHAT).startswith("<|im_start|>user\n")
    assert "<tool_response>" in served.render(TOOL_CHAT)


def test_a_template_without_tools_becomes_plain_chatml() -> None:
    assert serving_template(styles.CHATML_DEFAULT) == CHATML
    assert is_plain_chatml(serving_template(styles.CHATML_DEFAULT))
    assert is_plain_chatml(serving_template(styles.CHATML_DEFAULT, adds_bos=True))
    assert not is_plain_chatml(serving_template(styles.CHATML_TOOLS))
    assert not is_plain_chatml(styles.LLAMA3)


def test_making_it_twice_changes_nothing() -> None:
    for name in ALL:
        once = serving_template(getattr(styles, name))
        twice = serving_template(once)
        for chat in CHATS:
            assert _outcome(once, chat) == _outcome(twice, chat)


@pytest.mark.parametrize("name", ["MISTRAL", "PHI3", "NO_SYSTEM", "LAST_SYSTEM", "REASONING"])
def test_other_models_keep_their_own(name: str) -> None:
    assert serving_template(getattr(styles, name)) == getattr(styles, name)


def test_own_keeps_even_a_chatml_template() -> None:
    assert serving_template(styles.CHATML_DEFAULT, own=True) == styles.CHATML_DEFAULT


def test_the_clock_is_pinned() -> None:
    served = ChatTemplate(serving_template(styles.LLAMA3), bos="<s>")
    assert "Today: 26 Jul 2024\n" in served.render(styles.CHAT)
    # llama-server gives every template today's date under this name.
    served._constants["date_string"] = "25 Nov 2026"
    assert "Today: 26 Jul 2024\n" in served.render(styles.CHAT)
    quoted = "{{ strftime_now('%Y-%m-%d') + strftime_now( \"%B\" ) + messages[0]['content'] }}"
    assert ChatTemplate(serving_template(quoted)).render(styles.CHAT) == "2024-07-26July" + "Where is srv-0142?"


def test_the_switch_for_thinking_is_pinned() -> None:
    for asked in (True, False):
        served = ChatTemplate(serving_template(styles.SWITCH))
        served._constants["enable_thinking"] = asked  # type: ignore[assignment]
        assert served.render(styles.CHAT[:1], add_generation_prompt=True).endswith("assistant\n<think>\n\n</think>\n\n")
    assert serving_template(serving_template(styles.SWITCH)) == serving_template(styles.SWITCH)


@pytest.mark.parametrize("name", ["CHATML_DEFAULT", "CHATML_TOOLS", "PHI3"])
def test_a_bos_that_the_server_adds_is_in_the_template_once(name: str) -> None:
    text = ChatTemplate(serving_template(getattr(styles, name), adds_bos=True), bos="<s>").render(styles.CHAT)
    assert text.startswith("<s><|")
    assert text.count("<s>") == 1


def test_a_template_with_bos_gets_no_second_one() -> None:
    assert serving_template(styles.MISTRAL, adds_bos=True) == styles.MISTRAL


def test_default_and_tool_use_become_one() -> None:
    both = ChatTemplate(choose("plain {{ messages[0].content }}\n", with_tools="tools {{ tools | length }}\n"))
    assert both.render(styles.CHAT) == "plain Where is srv-0142?"
    assert both.render(styles.CHAT, styles.TOOLS) == "tools 1"


def test_what_a_template_can_do() -> None:
    assert writes_tools(styles.CHATML_TOOLS)
    assert not writes_tools(styles.CHATML_DEFAULT)
    assert takes_system(ChatTemplate(styles.LLAMA3))
    assert not takes_system(ChatTemplate(styles.NO_SYSTEM))
    assert takes_argument_objects(ChatTemplate(styles.CHATML_TOOLS))
    assert not takes_argument_objects(ChatTemplate("{{ messages[1].tool_calls[0].function.arguments + 'x' }}"))


def test_invalid_jinja_names_the_line() -> None:
    with pytest.raises(ModelError, match="isn't valid Jinja") as caught:
        ChatTemplate("fine\n{% for x %}")
    assert caught.value.where == "line 2"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('Roles must alternate') }}",
        "{{ messages[7].content }}",
        "{{ 1 + messages }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_fails_or_misbehaves_is_an_error_of_ours(template: str) -> None:
    with pytest.raises(DataError, match="the model's chat template"):
        ChatTemplate(template).render(styles.CHAT)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("name", ALL)
def test_transformers_renders_the_same(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = serving_template(getattr(styles, name), adds_bos=name == "CHATML_TOOLS")
    ours = ChatTemplate(template, bos="<s>", eos="</s>")
    compared = 0
    for chat, tools in [*((chat, None) for chat in CHATS), (TOOL_CHAT, styles.TOOLS), (TOOL_CHAT, None)]:
        for generate in (True, False):
            try:
                expected = ours.render(chat, tools, add_generation_prompt=generate)
            except DataError:
                continue
            theirs, _ = render_jinja_template(
                [chat], tools=tools, chat_template=template, add_generation_prompt=generate, bos_token="<s>",
                eos_token="</s>",
            )  # fmt: skip
            assert theirs == [expected]
            compared += 1
    assert compared >= 6


def _outcome(template: str, chat: list[dict[str, Any]]) -> str:
    try:
        return ChatTemplate(template, bos="<s>").render(chat, add_generation_prompt=True)
    except DataError as error:
        return str(error)

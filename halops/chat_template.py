"""The chat template: one thing from training to serving.

A ChatML model's own template may put in a system message that nobody wrote; llama-server's `chatml` doesn't.
`serving_template` makes the one template that training renders with, and that adapter, merged model and GGUF carry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from halops.errors import DataError, ModelError

Message = Mapping[str, Any]

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# Followed by the branch for chats with tools, `{% else %}`, the other branch, `{% endif %}`.
_IF_TOOLS = """\
{%- set halops = namespace(tools=false) %}
{%- if tools %}
    {%- set halops.tools = true %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' or message.tool_calls %}
        {%- set halops.tools = true %}
    {%- endif %}
{%- endfor %}
{%- if halops.tools %}
"""

_BOS = "{{- bos_token }}"
# A template that reads the clock would train on one day's tokens and serve another's. This is the day that
# Llama 3's template falls back to. llama-server sets `date_string` and `enable_thinking` by its own judgement;
# conversations hold no reasoning, so that is off.
_DAY = datetime(2024, 7, 26)
_PINNED = {"date_string": f'"{_DAY:%d %b %Y}"', "enable_thinking": "false"}
_CLOCK = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")

_USER: Message = {"role": "user", "content": "Question one"}
_CHAT = (
    {"role": "system", "content": "Rules"},
    _USER,
    {"role": "assistant", "content": "Answer one"},
    {"role": "user", "content": "Question two"},
)
_TOOL = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object", "properties": {}}},
}
_CALL = {"type": "function", "id": "call00001", "function": {"name": "probe_tool", "arguments": {"argument": "value"}}}
_CALLING: tuple[Message, ...] = (_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]})


class ChatTemplate:
    """A compiled chat template, rendered in the sandbox and with the helpers that transformers gives templates.

    Args:
        source: Jinja text.
        bos, eos: texts of the tokenizer's `bos_token` and `eos_token`.

    Raises:
        ModelError: the text isn't valid Jinja.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        import jinja2

        self.source = source
        self._constants = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the model's chat template isn't valid Jinja: {error.message}", where=f"line {error.lineno}"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The chat as text. Variables are those that llama-server gives: no `tools` unless there are some.

        Raises DataError with the template's own words if it refuses this chat.
        """
        import jinja2

        values = dict(self._constants, messages=messages, add_generation_prompt=add_generation_prompt)
        if tools:
            values["tools"] = tools
        try:
            return str(self._template.render(values))
        except jinja2.TemplateError as error:
            raise DataError(f"the model's chat template refuses this chat: {error}") from error
        except Exception as error:  # a template is a program: it can fail in any way
            raise DataError(f"the model's chat template fails on this chat: {type(error).__name__}: {error}") from error


def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text in some templates; here it is only passed through."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None,
               separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:  # fmt: skip
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def chatml(messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
    """The chat as ChatML text, exactly as llama-server's `--chat-template chatml` has it."""
    text = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def is_chatml(template: str) -> bool:
    """Whether a template writes ChatML, but for a BOS token or a default system message of its own.

    Judged by what it renders, not by how it is written. Raises ModelError if it isn't valid Jinja.
    """
    compiled = ChatTemplate(template, bos="<BOS>", eos="<EOS>")
    try:
        chat = compiled.render(_CHAT, add_generation_prompt=True)
        question = compiled.render([_USER], add_generation_prompt=True)
    except DataError:
        return False
    if chat.removeprefix("<BOS>") != chatml(_CHAT, add_generation_prompt=True):
        return False
    return _without_system(question.removeprefix("<BOS>")) == chatml([_USER], add_generation_prompt=True)


def is_plain_chatml(template: str) -> bool:
    """Whether a template is the one that `serving_template` makes for ChatML models without tools: on any chat it
    gives llama-server's `chatml`. Needs no Jinja."""
    return template.strip().removeprefix(_BOS).lstrip() == CHATML


def serving_template(template: str, *, adds_bos: bool = False, own: bool = False) -> str:
    """The template to train and to serve with.

    For a ChatML model: ChatML with no injected system message; where the model's own template writes tools and tool
    calls, it goes on doing so, less its default system text. For any other model: its own, unchanged unless it reads
    the clock or has a switch for thinking (both are pinned, since trained and served tokens would differ).

    Args:
        template: the model's own template.
        adds_bos: whether llama-server puts a BOS token before each prompt of this model. The template then has one
            too: the server never doubles it, and other readers get the same tokens.
        own: keep a ChatML model's own template as well (`serving.chat_template: model`).
    """
    if is_chatml(template) and not own:
        plain = f"{_BOS}\n{CHATML}" if adds_bos else CHATML
        if not writes_tools(template):
            return plain
        return choose(plain, with_tools=_pin(_without_default_system(template)))
    pinned = _pin(template)
    if adds_bos and not ChatTemplate(pinned, bos="<BOS>").render([_USER]).startswith("<BOS>"):
        return _BOS + pinned
    return pinned


def choose(default: str, *, with_tools: str) -> str:
    """One template out of two: `with_tools` for chats with tools, tool calls or tool answers, else `default`."""
    # Jinja drops one newline at a template's end, which it would keep in the middle.
    first, second = with_tools.removesuffix("\n"), default.removesuffix("\n")
    return f"{_IF_TOOLS}{first}{{% else %}}\n{second}{{% endif %}}"


def writes_tools(template: str) -> bool:
    """Whether the template has a form of its own for tools or tool calls."""
    compiled = ChatTemplate(template)
    try:
        return "probe_tool" in compiled.render([_USER], [_TOOL]) or "probe_tool" in compiled.render(_CALLING)
    except DataError:
        return False


def takes_argument_objects(template: ChatTemplate) -> bool:
    """Whether tool-call arguments go in as an object, as llama-server decides it; otherwise as JSON text."""
    try:
        return "value" in template.render(_CALLING, [_TOOL])
    except DataError:
        return False


def takes_system(template: ChatTemplate) -> bool:
    """Whether the template writes a system message. llama-server joins it to the first user turn otherwise."""
    try:
        return "Rules" in template.render(_CHAT[:2])
    except DataError:
        return False


def _without_system(text: str) -> str:
    return re.sub(r"\A<\|im_start\|>system\n.*?<\|im_end\|>\n", "", text, flags=re.DOTALL)


def _without_default_system(template: str) -> str:
    """The template's source less the system text that it puts in when a chat has none."""
    text = ChatTemplate(template).render([_USER])
    found = re.match(r"<\|im_start\|>system\n(.+?)<\|im_end\|>\n", text, re.DOTALL)
    if not found:
        return template
    default = found[1]
    for newline in ("\\n", "\n"):
        block = f"<|im_start|>system{newline}{default}<|im_end|>{newline}"
        template = template.replace(block, "")
    return template.replace(default, "")


def _pin(template: str) -> str:
    """The template with everything decided that would otherwise be decided anew at each request."""
    pinned = _CLOCK.sub(lambda call: json.dumps(_DAY.strftime(call[1] or call[2] or "")), template)
    settings = "".join(f"{{%- set {name} = {value} %}}" for name, value in _PINNED.items() if name in pinned)
    return pinned if pinned.startswith(settings) else settings + pinned

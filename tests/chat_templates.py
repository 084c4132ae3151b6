"""Chat templates of our own in the styles of well-known families: each has the trait that makes its family special.

`{% generation %}` marks what the assistant writes; transformers makes its own mask from it, to compare ours with.
"""

from __future__ import annotations

# ChatML that puts in a system message nobody wrote, in one line, as SmolLM2's does.
CHATML_DEFAULT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nI am the house assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# ChatML with tools and a default system text, as Qwen2.5's.
CHATML_TOOLS = r"""
{%- set standard = 'I am the tool assistant.' %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n' }}
    {%- else %}
        {{- 'I am the tool assistant.' }}
    {%- endif %}
    {{- '<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nI am the tool assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content or not message.tool_calls %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# Begins with BOS, trims what it is given, tells the date: Llama 3's style.
LLAMA3 = r"""
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n' }}
{%- if messages[0].role == 'system' %}
    {{- messages[0].content | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
        {%- if message.role == 'assistant' %}
            {%- generation %}{{- message.content | trim + '<|eot_id|>' }}{% endgeneration %}
        {%- else %}
            {{- message.content | trim + '<|eot_id|>' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# [INST], strict alternation, no system role, no generation prompt: Mistral's first style.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)

# The system message stands in the last question: each turn looks different once another follows. Mistral v3's style.
LAST_SYSTEM = r"""
{{- bos_token }}
{%- set chat = messages %}
{%- if messages[0].role == 'system' %}
    {%- set chat = messages[1:] %}
{%- endif %}
{%- for message in chat %}
    {%- if message.role == 'user' %}
        {%- set last = loop.last or (loop.index == chat | length - 1) %}
        {{- '[INST]' + (messages[0].content + '\n\n' if last and messages[0].role == 'system' else '') }}
        {{- message.content + '[/INST]' }}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# No BOS, an EOS after all of it when no answer is asked for: Phi-3.5's style.
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>\n' }}{% generation %}"
    "{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

# Writes the reasoning of the last answer only, as Qwen3's does.
REASONING = r"""
{%- for message in messages %}
    {{- '<|turn|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' and loop.last %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\n' }}
{%- endif %}
"""

# A switch for thinking that llama-server would turn on: Qwen3.5's style.
SWITCH = r"""
{%- for message in messages %}
    {{- '<|turn|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' and loop.last %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\n' + ('<think>\n' if enable_thinking is not defined or enable_thinking else
        '<think>\n\n</think>\n\n') }}
{%- endif %}
"""

# Refuses a system message outright, as Gemma 2's does.
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' }}{% if role == 'model' %}{% generation %}"
    "{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<end_of_turn>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# The prompt opens a thought that the template's own answers don't have: DeepSeek-R1's style.
FORCED_THOUGHT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)

SYSTEM = {"role": "system", "content": "Answer in one line."}
CHAT = [
    {"role": "user", "content": "Where is srv-0142?"},
    {"role": "assistant", "content": "Rack 12, unit 7."},
    {"role": "user", "content": "And its backup, at 10.2.33.4?"},
    {"role": "assistant", "content": "Rack 14: see RB-2031, naïve 日本 🙂."},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "ping",
            "description": "Ping a host",
            "parameters": {"type": "object", "properties": {"host": {"type": "string"}}, "required": ["host"]},
        },
    }
]
TOOL_CHAT = [
    {"role": "user", "content": "Is srv-1 up?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "ping", "arguments": '{"host": "srv-1", "n": 2.0}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "1 ms\n"},
    {"role": "assistant", "content": "It is up."},
]

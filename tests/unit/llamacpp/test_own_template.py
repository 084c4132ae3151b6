"""Which template a GGUF file is served with."""

from pathlib import Path

import pytest

from halops.chat_template import CHATML
from halops.llamacpp.server import has_own_template

LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
)
WITH_TOOLS = "{%- set ns = namespace(tools=false) -%}<|im_start|>"


@pytest.mark.parametrize(
    ("template", "own"), [(CHATML, False), (LLAMA3, True), (WITH_TOOLS, True), (None, False)]
)  # fmt: skip
def test_only_chatml_without_tools_is_replaced_by_the_servers(tmp_path: Path, template: str | None, own: bool) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert has_own_template(tmp_path / "m.gguf") is own


def test_a_damaged_file_is_left_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert not has_own_template(tmp_path / "m.gguf")

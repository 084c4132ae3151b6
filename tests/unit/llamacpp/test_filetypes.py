"""The table of file types against llama-quantize's own."""

import re
import subprocess

import pytest

from halops.errors import ConfigError
from halops.llamacpp.filetypes import FILE_TYPES, check
from halops.llamacpp.toolchain import Toolchain


def test_the_table_is_llama_quantizes(llama_cpp: Toolchain) -> None:
    helped = subprocess.run([llama_cpp.quantize, "--help"], capture_output=True, text=True, check=False)
    listed = re.findall(r"^\s*\d+\s+or\s+(\S+)\s", helped.stdout + helped.stderr, re.MULTILINE)
    assert len(listed) > 30
    assert {name.lower() for name in listed} == set(FILE_TYPES)


def test_types_come_back_in_lower_case() -> None:
    assert check(("F16", "Q4_K_M")) == ("f16", "q4_k_m")


def test_every_problem_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        check(("q4_k_xl", "iq2_xxs", "f16", "F16"))
    text = str(caught.value)
    assert "convert.types[0]: 'q4_k_xl' is no file type" in text
    assert "convert.types[1]: 'iq2_xxs' needs an importance matrix" in text
    assert "'f16' is given twice" in text
    assert "q5_k_m" in text


def test_no_type_at_all_is_a_problem() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        check(())

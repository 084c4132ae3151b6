"""The table of file types against llama-quantize's own."""

import re
import subprocess
from pathlib import Path

import pytest

from halops import sections
from halops.errors import ConfigError
from halops.llamacpp.filetypes import FILE_TYPES, NEED_IMATRIX, USABLE, problems
from halops.llamacpp.toolchain import Toolchain
from halops.profile import load_profile


def test_the_table_is_llama_quantizes(llama_cpp: Toolchain) -> None:
    helped = subprocess.run([llama_cpp.quantize, "--help"], capture_output=True, text=True, check=False)
    listed = re.findall(r"^\s*\d+\s+or\s+(\S+)\s", helped.stdout + helped.stderr, re.MULTILINE)
    assert len(listed) > 30
    assert {name.lower() for name in listed} == set(FILE_TYPES)


def test_types_are_taken_in_any_case_and_kept_in_lower_case() -> None:
    assert sections.Convert(types=("F16", "Q4_K_M")).types == ("f16", "q4_k_m")
    assert sections.Serving(file="Q8_0").file == "q8_0"


def test_every_problem_is_reported(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("convert: {types: [q4_k_xl, iq2_xxs, q4_k_m, Q4_K_M]}\n")
    with pytest.raises(ConfigError) as caught:
        load_profile(str(profile))
    (line,) = caught.value.problems
    assert line.startswith("convert.types: 'q4_k_xl' is no file type of llama-quantize; 'iq2_xxs' needs an importance")
    assert "'q4_k_m' is given twice" in line
    assert "q5_k_m" in line


def test_no_type_at_all_is_a_problem() -> None:
    assert problems(()) == ["give at least one file type"]


def test_the_served_file_must_be_made(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("convert: {types: [f16]}\nserving: {file: q8_0}\n")
    with pytest.raises(ConfigError) as caught:
        load_profile(str(profile))
    assert caught.value.problems == ("serving.file: 'q8_0' isn't among convert.types (f16)",)


def test_importance_matrix_types_are_real_types() -> None:
    assert set(NEED_IMATRIX) < set(FILE_TYPES)
    assert set(USABLE) == set(FILE_TYPES) - set(NEED_IMATRIX)

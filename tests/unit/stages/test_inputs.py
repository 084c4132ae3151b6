"""An attempt sees the inputs that it was made for, or ends before any work."""

from __future__ import annotations

import json

import pytest

from halops.errors import ConfigError, IntegrityError
from halops.stages.inputs import require_expected

A, B = "a" * 64, "b" * 64


def test_what_is_as_expected_passes() -> None:
    require_expected({"base": A}, None)
    require_expected({}, "{}")
    require_expected({"base": A, "data": B}, json.dumps({"data": B, "base": A}))


@pytest.mark.parametrize(
    ("there", "expected", "says"),
    [
        ({"base": A, "data": B}, {"base": A, "data": A}, ["data changed", "data is sha256:bbbbbbbbbbbb, not sha256:a"]),
        ({"base": A}, {"base": A, "train": B}, ["train changed", "train is absent, not sha256:bbb"]),
        ({"base": A, "adapter": B}, {"base": B}, ["adapter, base changed", "not absent"]),
    ],
)  # fmt: skip
def test_what_changed_is_named(there: dict[str, str], expected: dict[str, str], says: list[str]) -> None:
    with pytest.raises(IntegrityError) as caught:
        require_expected(there, json.dumps(expected))
    assert caught.value.exit_code == 43
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HALOPS_INPUTS"):
        require_expected({"base": A}, text)

"""Models for stage tests: those of the data tests."""

from __future__ import annotations

from tests.unit.data.conftest import make_model, tokenizer_json

__all__ = ["make_model", "tokenizer_json"]

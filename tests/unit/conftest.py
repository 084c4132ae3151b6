"""Golden files: a value as it was approved. UPDATE_GOLDEN=1 writes them anew, for a diff to review."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with `golden/NAME`."""

    def check(name: str, text: str) -> None:
        path = FOLDER / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{name} differs; UPDATE_GOLDEN=1 accepts the new text"

    return check

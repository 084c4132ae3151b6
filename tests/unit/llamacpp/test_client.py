"""The layout of a saved slot. What the server writes is in tests/stages/test_serve.py."""

import struct

import pytest

from halops.errors import TransientError
from halops.llamacpp.client import SLOT_MAGIC, parse_slot


def test_the_ids_come_after_six_words() -> None:
    data = struct.pack("<9i", SLOT_MAGIC, 3, 7, -1, 1, 3, 11, 12, 13) + b"tensors"
    assert parse_slot(data) == [11, 12, 13]


@pytest.mark.parametrize("data", [b"", b"x" * 40, struct.pack("<7i", SLOT_MAGIC, 3, 7, -1, 1, 3, 11)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(TransientError, match="unknown layout"):
        parse_slot(data)

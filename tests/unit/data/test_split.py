"""The held-out split: stable, by content, with no conversation on both sides."""

from __future__ import annotations

import random
from typing import Any

import pytest

from halops.data.split import conversation_key, held_out, split_key
from halops.errors import DataError


def _chat(question: str, answer: str = "yes") -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("other", [" How  are\n\tyou ? ", "HOW ARE YOU ?", "how are you ?", "\uff28ow are you ?"])
def test_white_space_case_and_width_make_no_difference(other: str) -> None:
    assert conversation_key(_chat("How are you ?")) == conversation_key(_chat(other))


@pytest.mark.parametrize(
    "other",
    [
        _chat("How are you"),
        _chat("How are you ?", "no"),
        [*_chat("How are you ?"), *_chat("Really?")],
        [{"role": "tool", "content": "How are you ?"}, {"role": "assistant", "content": "yes"}],
        [{"role": "user", "content": "How are you ?"}, {"role": "assistant", "content": "yes", "tool_calls": [{}]}],
    ],
)
def test_what_is_said_makes_a_difference(other: list[dict[str, Any]]) -> None:
    assert conversation_key(_chat("How are you ?")) != conversation_key(other)
    assert split_key(_chat("How are you ?")) != split_key(other)


def test_system_messages_do_not_move_a_row_to_the_other_side() -> None:
    with_system = [{"role": "system", "content": "Be brief."}, *_chat("a")]
    assert split_key(with_system) == split_key(_chat("a"))
    assert conversation_key(with_system) != conversation_key(_chat("a"))


def test_the_split_does_not_depend_on_order_or_repetition() -> None:
    keys = [split_key(_chat(f"question {n}")) for n in range(500)]
    held = held_out(keys, 0.1)
    shuffled = keys * 2
    random.Random(3).shuffle(shuffled)
    assert held_out(shuffled, 0.1) == held
    assert 30 <= len(held) <= 70


def test_new_rows_leave_the_old_ones_where_they_were() -> None:
    keys = [split_key(_chat(f"question {n}")) for n in range(400)]
    assert held_out(keys[:300], 0.1) == held_out(keys, 0.1) & set(keys[:300])


def test_this_split_is_the_same_for_ever() -> None:
    """A run that is resumed after an update must not train on what it held out."""
    assert conversation_key(_chat("a")).hex() == "c137eb22a3c5d79d890b7e3ab69ed51f"


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5])
def test_both_sides_have_a_row(count: int, fraction: float) -> None:
    keys = {split_key(_chat(f"{count} {n}")) for n in range(count)}
    held = held_out(keys, fraction)
    assert 0 < len(held) < count
    assert held <= keys


def test_a_fraction_of_nearly_everything_leaves_one_to_train_on() -> None:
    keys = [bytes([n]) * 16 for n in range(5)]
    assert held_out(keys, 0.999) == frozenset(keys[:4])


@pytest.mark.parametrize("keys", [[], [b"a" * 16], [b"a" * 16] * 9])
def test_one_conversation_cannot_be_split(keys: list[bytes]) -> None:
    with pytest.raises(DataError, match="at least two different conversations"):
        held_out(keys, 0.1)

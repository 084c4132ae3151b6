"""Gates: when one passes, and what a failed one says."""

import pytest

from halops.errors import VerificationError
from halops.verify.report import Gate, require


def test_a_gate_that_looked_at_nothing_does_not_pass() -> None:
    assert not Gate("parity").passed
    with pytest.raises(VerificationError, match="nothing could be checked"):
        require([Gate("parity")])


def test_as_many_may_fail_as_are_allowed() -> None:
    assert Gate("stops", 4, ["a"], allowed=1).passed
    assert not Gate("stops", 4, ["a", "b"], allowed=1).passed


def test_all_failed_gates_are_named_with_their_remedies() -> None:
    gates = [Gate("files", 1), Gate("parity", 9, [f"chat {i}" for i in range(9)]), Gate("stops", 1, ["ran on"])]
    with pytest.raises(VerificationError) as caught:
        require(gates)
    text = str(caught.value)
    assert text.startswith("verification failed: parity, stops\n  - parity: chat 0\n")
    assert "parity: and 4 more" in text
    assert "chat 5" not in text
    assert "serving.chat_template" in text
    assert "verify.max_stop_failures" in text
    assert "files" not in text

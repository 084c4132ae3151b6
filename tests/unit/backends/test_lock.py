"""One worker for one run."""

import signal
import subprocess
import sys

import pytest

from halops.backends.lock import RunLock, holder, is_held
from halops.errors import BusyError

HOLD = """
import sys, pathlib
from halops.backends.lock import RunLock
with RunLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "run" / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()


def test_a_second_worker_is_told_who_works(other):
    path, process = other
    assert is_held(path)
    assert holder(path) == process.pid
    with pytest.raises(BusyError, match=str(process.pid)), RunLock(path):
        pass


def test_a_killed_worker_frees_it_at_once(other):
    path, process = other
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_held(path)
    with RunLock(path):
        assert is_held(path)


def test_nobody_holds_what_is_not_there(tmp_path):
    assert not is_held(tmp_path / "lock")
    assert holder(tmp_path / "lock") is None

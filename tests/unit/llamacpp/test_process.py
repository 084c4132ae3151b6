"""Programs that are run to their end: logs, progress, failures, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from halops.errors import HostError, Interrupted, StageError
from halops.llamacpp import process


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_lines_reach_the_listener_and_the_log(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log"
    code = "import sys; sys.stdout.write('a\\r 50%\\rb\\n'); sys.stdout.flush(); sys.stderr.write('c\\n')"
    process.run(_python(code), log=log, what="trying", on_line=lines.append)
    assert lines == ["a", " 50%", "b", "c"]
    assert log.read_bytes().endswith(b"a\r 50%\rb\nc\n")


def test_a_failure_shows_the_end_of_the_output(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"(?s)trying failed with exit code 3.*the cause"):
        process.run(_python("print('the cause'); raise SystemExit(3)"), log=tmp_path / "log", what="trying")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="disk is full"):
        process.run(
            _python("import os; os.write(os.open('/dev/full', os.O_WRONLY), b'x')"), log=tmp_path / "log", what="trying"
        )


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="can't run /nowhere/tool: No such file"):
        process.run(["/nowhere/tool"], log=tmp_path / "log", what="trying")


@pytest.mark.parametrize(("number", "words"), [(signal.SIGILL, "illegal instruction"), (signal.SIGKILL, "memory")])
def test_signals_are_explained(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(HostError, match=words):
        process.run(_python(f"import os; os.kill(os.getpid(), {number})"), log=tmp_path / "log", what="trying")


def test_stop_ends_the_program(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted, match="stopped while trying"):
        process.run(_python("import time; time.sleep(60)"), log=tmp_path / "log", what="trying", stop=stop)
    assert time.monotonic() - began < 10


def test_a_child_does_not_outlive_its_killed_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        "import sys; from pathlib import Path; from halops.llamacpp import process;"
        f"process.run([sys.executable, '-c', {child!r}], log=Path({str(tmp_path / 'log')!r}), what='x')"
    )
    running = subprocess.Popen(_python(parent))
    try:
        _until(lambda: pid_file.exists() and pid_file.read_text() != "")
        pid = int(pid_file.read_text())
        running.kill()
        running.wait()
        _until(lambda: not _alive(pid))
    finally:
        running.kill()


def test_settings_by_environment_are_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "128")
    environment = process.offline_environment()
    assert "LLAMA_ARG_CTX_SIZE" not in environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["GOMP_SPINCOUNT"] == "10000"


def test_cores_are_those_of_this_process() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert process.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def _until(condition: object) -> None:
    for _ in range(500):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError("it didn't happen in 10 s")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

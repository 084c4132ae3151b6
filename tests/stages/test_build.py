"""The build with the real cmake and compilers, on a source tree that is small where llama.cpp's is large."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from halops.errors import HostError
from halops.llamacpp import build as building
from halops.llamacpp.toolchain import FOLDERS, LLAMA_CPP, PROGRAMS, SCRIPTS, find, folder
from halops.progress import Progress

pytestmark = pytest.mark.slow

CMAKE = """
cmake_minimum_required(VERSION 3.14)
project(small CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama lib.cpp)
if(EXISTS ${CMAKE_SOURCE_DIR}/slow)
  add_custom_target(slow COMMAND touch ${CMAKE_BINARY_DIR}/sleeping COMMAND sleep 60)
  add_dependencies(llama slow)
endif()
foreach(name %s)
  add_executable(${name} main.cpp)
  target_link_libraries(${name} llama)
endforeach()
"""
MAIN = (
    '#include <cstdio>\n#include <csignal>\nconst char * commit();\nint main() { %s printf("commit %%s", commit()); }\n'
)

# In a process of its own, so that it can be killed.
BUILD = """
import sys
from pathlib import Path
from halops.llamacpp import build
from halops.progress import Progress
build._fetch = lambda work, progress: None
build.build(Progress(), jobs=2)
"""


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, with the sources fetched already."""
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HALOPS_LLAMA_CPP", raising=False)
    made = folder().with_name(f"{folder().name}.build") / "source"
    made.mkdir(parents=True)
    (made / "CMakeLists.txt").write_text(CMAKE % " ".join(PROGRAMS))
    (made / "lib.cpp").write_text(f'const char * commit() {{ return "{LLAMA_CPP.commit}"; }}\n')
    (made / "main.cpp").write_text(MAIN % "")
    for name in (*SCRIPTS, "LICENSE"):
        (made / name).write_text("text")
    for name in FOLDERS:
        (made / name).mkdir()
    return made


def _build() -> Path:
    return building.build(Progress(), jobs=2).root


def test_a_build_is_found_and_can_be_moved(source: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    root = building.build(Progress(listener=events.append), jobs=2).root
    assert find().root == root
    assert not source.exists()
    receipt = json.loads((root / "build.json").read_text())
    assert receipt["commit"] == LLAMA_CPP.commit
    assert "GGML_NATIVE=OFF" in receipt["flags"]
    assert any(event.get("total") for event in events if event["message"] == "building llama.cpp")
    moved = root.rename(tmp_path / "elsewhere")
    said = subprocess.run([moved / "bin" / "llama-bench"], capture_output=True, text=True, check=True)
    assert said.stdout == f"commit {LLAMA_CPP.commit}"
    assert all((moved / name).exists() for name in (*SCRIPTS, *FOLDERS, "LICENSE", "build.log"))


def test_what_is_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    root = _build()
    monkeypatch.setenv("PATH", "")  # nothing could be run
    assert _build() == root


def test_make_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for place in filter(os.path.isdir, os.environ["PATH"].split(os.pathsep)):
        for path in Path(place).iterdir():
            if path.name != "ninja" and not (tools / path.name).is_symlink():
                (tools / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(tools))
    assert (_build() / "bin" / "llama-server").exists()


def test_one_that_does_not_run_here_does_not_count(source: Path) -> None:
    (source / "main.cpp").write_text(MAIN % "raise(SIGILL);")
    with pytest.raises(HostError, match=r"llama-server --version failed with signal 4"):
        _build()
    with pytest.raises(HostError, match="isn't built"):
        find()


def test_a_compile_error_shows_the_compilers_words(source: Path) -> None:
    (source / "lib.cpp").write_text("this is no C++;")
    with pytest.raises(HostError, match=r"(?s)building llama\.cpp failed.*this is no C") as caught:
        _build()
    assert Path(str(caught.value.where)).is_file()


def test_a_killed_build_leaves_nothing_that_counts_and_goes_on(source: Path) -> None:
    (source / "slow").touch()
    running = subprocess.Popen([sys.executable, "-c", BUILD])
    sleeping = source.with_name("objects") / "sleeping"
    for _ in range(3000):
        if sleeping.exists() or running.poll() is not None:
            break
        time.sleep(0.01)
    assert sleeping.exists()
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    with pytest.raises(HostError, match="isn't built"):
        find()
    _end_sleepers()  # what the killed build started holds the lock until it is gone
    (source / "slow").unlink()
    assert _build() == find().root


def test_two_builders_at_once_build_once(source: Path) -> None:
    (source / "slow").touch()
    text = (source / "CMakeLists.txt").read_text()
    (source / "CMakeLists.txt").write_text(text.replace("sleep 60", "sleep 3"))
    events: list[str] = []
    other = subprocess.Popen([sys.executable, "-c", BUILD])
    sleeping = source.with_name("objects") / "sleeping"
    while not sleeping.exists() and other.poll() is None:
        time.sleep(0.01)
    thread = threading.Thread(
        target=lambda: building.build(Progress(listener=lambda event: events.append(event["message"])), jobs=1)
    )
    thread.start()
    thread.join()
    assert other.wait() == 0
    assert "waiting for another process that builds llama.cpp" in events
    assert "building llama.cpp" not in events
    assert find().root.is_dir()


def _end_sleepers() -> None:
    """End the `sleep 60` of a killed build: a child of ninja, which died with the builder."""
    lock = folder().with_name(f"{folder().name}.lock")
    for process in Path("/proc").iterdir():
        descriptors = process / "fd"
        try:
            held = any(os.readlink(link) == str(lock) for link in descriptors.iterdir())
        except OSError:
            continue
        if process.name.isdigit() and held and int(process.name) != os.getpid():
            os.kill(int(process.name), signal.SIGKILL)

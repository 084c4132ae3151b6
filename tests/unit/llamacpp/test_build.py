"""The build's own steps: what it needs, what it fetches, how it reports. The build itself is in tests/stages."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from halops.errors import HostError, IntegrityError, StageError, TransientError
from halops.llamacpp import build, toolchain
from halops.llamacpp.__main__ import main
from halops.llamacpp.toolchain import LLAMA_CPP, Flavour
from halops.progress import Progress


def test_missing_tools_are_all_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(HostError) as caught:
        build.preflight(tmp_path, Flavour(cuda=True))
    text = str(caught.value)
    command = "apt-get install -y build-essential cmake"
    for tool in ("cmake", "a C++ compiler", "ninja or make", "patch", "nvcc", command):
        assert tool in text


def test_a_disk_too_small_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "DISK_NEEDED", 10**18)
    with pytest.raises(HostError, match=r"needs 1000000000\.0 GB"):
        build.preflight(tmp_path, Flavour())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="can't write the cache"):
        build.preflight(tmp_path / "file" / "cache", Flavour())


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", IntegrityError, "pinned"),
        ("/usr/bin/python: No module named pip", HostError, "ensurepip"),
        ("ERROR: Could not find a version that satisfies", TransientError, "index settings"),
    ],
)
def test_failed_downloads_are_told_apart(log: str, kind: type[Exception], words: str) -> None:
    error = build._download_error(StageError("pip failed"), log)
    assert type(error) is kind
    assert words in str(error)


def test_an_index_that_is_not_there_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(TransientError, match="downloading"):
        build._download(tmp_path, tmp_path / "source.tar.gz")
    assert not (tmp_path / "source.tar.gz").exists()


def test_an_archive_of_other_bytes_is_refused_and_removed(tmp_path: Path) -> None:
    (tmp_path / "source.tar.gz").write_bytes(b"something else")
    with pytest.raises(IntegrityError, match=LLAMA_CPP.sha256):
        build._fetch(tmp_path, Progress())
    assert not (tmp_path / "source.tar.gz").exists()


def test_sources_that_a_patch_does_not_fit_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _archive(tmp_path / "source.tar.gz", [f"{LLAMA_CPP.inside}/common/sampling.cpp"])
    monkeypatch.setattr(build, "sha256_file", lambda path: LLAMA_CPP.sha256)
    with pytest.raises(StageError, match=r"applying top-k\.patch"):
        build._fetch(tmp_path, Progress())
    assert not (tmp_path / "source").exists()


def _archive(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))


def test_only_what_is_needed_is_unpacked(tmp_path: Path) -> None:
    inside = LLAMA_CPP.inside
    wanted = ["CMakeLists.txt", "ggml/src/ggml.c", "conversion/base.py", "convert_lora_to_gguf.py", "tools/ui/x"]
    other = ["docs/a.md", "models/vocab.gguf", "tests/t.cpp", ".github/ci.yml"]
    names = [f"{inside}/{name}" for name in wanted + other] + ["llama_cpp_python-0.3.36/setup.py"]
    _archive(tmp_path / "a.tar.gz", names)
    build._unpack(tmp_path / "a.tar.gz", tmp_path / "source")
    found = {
        path.relative_to(tmp_path / "source").as_posix() for path in (tmp_path / "source").rglob("*") if path.is_file()
    }
    assert found == set(wanted)


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tar.gz", [f"{LLAMA_CPP.inside}/common/../../../evil"])
    with pytest.raises(tarfile.OutsideDestinationError):
        build._unpack(tmp_path / "a.tar.gz", tmp_path / "work" / "source")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(("line", "done", "total"), [("[12/226] Building", 12, 226), ("[ 45%] Built", 45, 100)])
def test_progress_comes_from_the_builder(line: str, done: int, total: int) -> None:
    events: list[dict[str, Any]] = []
    report = build._reporter(Progress(listener=events.append))
    report("-- Configuring done")
    report(line)
    report(line)  # too soon after the last
    assert [(event["done"], event["total"]) for event in events] == [(done, total)]


def test_a_compiler_that_fails_leaves_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "key.build"
    (work / "source").mkdir(parents=True)
    (work / "source" / "CMakeLists.txt").write_text('message(FATAL_ERROR "no such thing as C++")')
    with pytest.raises(HostError, match=r"no such thing as C\+\+") as caught:
        build._compile(work, Flavour(), Progress(), 1, 0, 0)
    assert "no such thing" in Path(str(caught.value.where)).read_text()


def test_the_command_prints_the_path(llama_cpp: toolchain.Toolchain, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path"]) == 0
    assert Path(capsys.readouterr().out.strip()) == llama_cpp.root


def test_the_command_has_the_errors_exit_code(tmp_path: Path) -> None:
    code = [sys.executable, "-m", "halops.llamacpp", "path"]
    environment = {"HALOPS_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ended = subprocess.run(code, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == HostError.exit_code
    assert ended.stderr.startswith("error: llama.cpp isn't built yet")
    assert "Traceback" not in ended.stderr

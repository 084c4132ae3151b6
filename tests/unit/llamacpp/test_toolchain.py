"""Which llama.cpp: identity, flags, and where it is looked for."""

import json
from pathlib import Path

import pytest

from halops.errors import HostError
from halops.llamacpp import toolchain
from halops.llamacpp.toolchain import FOLDERS, LLAMA_CPP, SCRIPTS, Flavour, Toolchain, find, folder, identity


def test_identity_names_commit_and_flags() -> None:
    assert identity(Flavour(machine="x86_64")).startswith(f"{LLAMA_CPP.commit}+cpu-x86_64-")


@pytest.mark.parametrize(
    "other",
    [
        Flavour(machine="aarch64"),
        Flavour(machine="x86_64", cuda=True),
        Flavour(machine="x86_64", cuda=True, architectures="90"),
    ],
)
def test_each_flavour_has_its_own_identity(other: Flavour) -> None:
    assert identity(other) != identity(Flavour(machine="x86_64"))


def test_a_changed_patch_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity()
    changed = tmp_path / "top-k.patch"
    changed.write_bytes(toolchain.PATCHES[0].read_bytes() + b"\n")
    monkeypatch.setattr(toolchain, "PATCHES", (changed,))
    assert identity() != before


def test_no_build_is_tuned_to_the_host() -> None:
    for machine in ("x86_64", "aarch64"):
        assert "GGML_NATIVE=OFF" in Flavour(machine=machine).flags
    assert "GGML_AVX2=ON" in Flavour(machine="x86_64").flags
    assert not any("AVX" in flag for flag in Flavour(machine="aarch64").flags)


def test_cuda_architectures_are_passed_on() -> None:
    flags = Flavour(machine="x86_64", cuda=True, architectures="86;90").flags
    assert flags[-2:] == ("GGML_CUDA=ON", "CMAKE_CUDA_ARCHITECTURES=86;90")


def test_without_a_build_the_error_gives_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path))
    monkeypatch.delenv("HALOPS_LLAMA_CPP", raising=False)
    with pytest.raises(HostError, match=r"python -m halops\.llamacpp build"):
        find()


def test_a_half_made_build_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path))
    monkeypatch.delenv("HALOPS_LLAMA_CPP", raising=False)
    (folder() / "bin").mkdir(parents=True)
    with pytest.raises(HostError, match="isn't built"):
        find()


def _fake(root: Path, receipt: dict[str, str]) -> None:
    (root / "bin").mkdir(parents=True)
    for name in (*SCRIPTS, "bin/llama-server", "bin/llama-quantize"):
        (root / name).touch(mode=0o755)
    for name in FOLDERS:
        (root / name).mkdir()
    (root / "build.json").write_text(json.dumps(receipt))


def test_a_named_folder_must_have_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path / "llama", {"commit": LLAMA_CPP.commit})
    (tmp_path / "llama" / "convert_lora_to_gguf.py").unlink()
    monkeypatch.setenv("HALOPS_LLAMA_CPP", str(tmp_path / "llama"))
    with pytest.raises(HostError, match=r"has no convert_lora_to_gguf\.py"):
        find()


def test_a_named_folder_must_be_the_pinned_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path / "llama", {"commit": "4df29be4f"})
    monkeypatch.setenv("HALOPS_LLAMA_CPP", str(tmp_path / "llama"))
    with pytest.raises(HostError, match="4df29be4f"):
        find()


def test_a_named_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path / "llama", {"commit": LLAMA_CPP.commit, "identity": "0c1e57098+cuda-x"})
    monkeypatch.setenv("HALOPS_LLAMA_CPP", str(tmp_path / "llama"))
    assert find() == Toolchain(tmp_path / "llama", "0c1e57098+cuda-x")


def test_a_program_that_cannot_run_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path / "llama", {})
    server = tmp_path / "llama" / "bin" / "llama-server"
    server.write_text("#!/bin/sh\nkill -ILL $$\n")
    monkeypatch.setenv("HALOPS_LLAMA_CPP", str(tmp_path / "llama"))
    with pytest.raises(HostError, match="signal 4"):
        find()


def test_the_built_one_is_found_and_says_its_commit(llama_cpp: Toolchain) -> None:
    from halops.llamacpp.toolchain import server_version

    assert LLAMA_CPP.commit[:7] in server_version(llama_cpp)

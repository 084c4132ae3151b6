"""The Dockerfiles keep what the cluster's manifests rely on, and what a security review looks for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("convert", "merge", "serve", "train")
STEPS = sorted((ROOT / "images" / "steps").glob("*.sh"))
LABELS = ("title", "description", "version", "revision", "source", "licenses")
FINAL = {"serve": ("cpu", "cuda")}  # stages that somebody runs; elsewhere the last one


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, its text) in order: comments out, continued lines joined."""
    lines = [line for line in (ROOT / f"images/{name}/Dockerfile").read_text().splitlines() if line[:1] != "#"]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    """Stage name, or its number -> its instructions."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions(name):
        if word == "FROM":
            current = found.setdefault(rest.split(" AS ")[-1] if " AS " in rest else str(len(found)), [])
        elif found:
            current.append((word, rest))
    return found


def final_stages(name: str) -> list[list[tuple[str, str]]]:
    every = stages(name)
    return [every[stage] for stage in FINAL.get(name, (list(every)[-1],))]


def test_every_folder_is_looked_at() -> None:
    assert sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")) == list(NAMES)
    assert len(STEPS) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_an_argument(name: str) -> None:
    first = instructions(name)[0]
    assert first[0] == "ARG"
    assert re.match(r"BASE=[a-z][a-z./-]*:[\w.-]+$", first[1])
    known = {rest.split(" AS ")[-1] for word, rest in instructions(name) if word == "FROM" and " AS " in rest}
    for word, rest in instructions(name):
        if word == "FROM":
            source = rest.split(" AS ")[0]
            assert re.fullmatch(r"\$\{\w+\}", source) or source in known


@pytest.mark.parametrize("name", NAMES)
def test_who_runs_what(name: str) -> None:
    for stage in final_stages(name):
        words = [word for word, _ in stage]
        settings = dict(stage)
        assert settings["USER"] == "10001:10001"  # a number: the kubelet can tell that it isn't root
        assert "RUN" not in words[words.index("USER") :]
        entry = json.loads(settings["ENTRYPOINT"])
        assert entry[:2] == ["/usr/bin/tini", "--"]
        assert entry[2:] == (["/opt/llama.cpp/bin/llama-server"] if name == "serve" else ["python"])
        assert all(f"org.opencontainers.image.{label}=" in settings["LABEL"] for label in LABELS)


@pytest.mark.parametrize("name", NAMES)
def test_labels_come_after_the_expensive_layers(name: str) -> None:
    for stage in final_stages(name):
        words = [word for word, _ in stage]
        revision = next(i for i, (word, rest) in enumerate(stage) if word == "ARG" and rest.startswith("REVISION"))
        assert "RUN" not in words[revision:]
        assert "COPY" not in words[revision:]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "serve"])
def test_the_code_is_the_last_thing_copied(name: str) -> None:
    text = [f"{word} {rest}" for word, rest in instructions(name)]
    installs = next(i for i, line in enumerate(text) if "install.sh /opt/steps" in line and line.startswith("RUN"))
    copies = [i for i, line in enumerate(text) if line.startswith("COPY halops /opt/halops/halops")]
    assert len(copies) == 1
    assert installs < copies[0]
    assert not any(line.startswith("COPY") for line in text[copies[0] + 1 :])


def test_every_install_is_locked_by_hashes() -> None:
    """All installing is in the steps; the one that isn't is torch of another index, whose hash nobody can know here."""
    for name in NAMES:
        runs = [rest for word, rest in instructions(name) if word == "RUN"]
        assert runs
        assert not any(re.search(r"\b(pip|uv) +(install|pip|add|sync)|curl|wget", rest) for rest in runs)
    installs = [
        line.strip()
        for path in STEPS
        for line in path.read_text().splitlines()
        if re.search(r"pip install|uv_install /", line) and not line.lstrip().startswith("#")
    ]
    loose = [line for line in installs if "--require-hashes" not in line and '--link-mode copy "$@"' not in line]
    assert len(installs) >= 5
    assert loose == [
        "uv_install /opt/venv/bin/python --no-deps --default-index \"$TORCH_INDEX\" -r /tmp/torch.txt"
    ]  # fmt: skip


@pytest.mark.parametrize("path", [*(ROOT / f"images/{name}/Dockerfile" for name in NAMES), *STEPS], ids=str)
def test_no_secret_and_no_registry_is_written_down(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"(?i)^(ARG|ENV) .*(token|password|passwd|secret|credential|_key)", text, re.M)
    assert not re.search(r"https?://|index-url", text)
    assert "ADD " not in text
    assert "NVIDIA_VISIBLE_DEVICES=" not in text


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.name)
def test_the_steps_are_shell_that_stops_at_errors(path: Path) -> None:
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    assert "set -eu" in path.read_text() or path.name in ("registry.sh", "uv.sh")  # these are sourced


def test_nothing_but_sources_is_sent_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule[0] == "!"} == {"halops", "images", "requirements"}


def llama_stage(name: str) -> list[tuple[str, str]]:
    return stages(name)["llama-build"]


def test_both_images_build_llama_cpp_alike() -> None:
    assert llama_stage("convert") == llama_stage("serve")


def test_the_files_that_the_llama_stage_copies_are_enough(tmp_path: Path) -> None:
    copied = [rest.split() for word, rest in llama_stage("convert") if word == "COPY" and "/opt/halops" in rest]
    for *sources, _ in copied:
        for source in sources:
            (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / source)
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, *{site_packages()!r}]; import halops.llamacpp.__main__ as m; "
        "print(m.__file__); sys.exit(m.main(['identity']))"
    )
    argv = [sys.executable, "-S", "-c", program]  # -S: without the checkout's own package on the path
    result = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path))


def site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def test_the_lock_without_cuda_keeps_everything_else() -> None:
    lock = (ROOT / "requirements/convert.txt").read_text()
    argv = ["awk", "-f", ROOT / "images/steps/without-cuda.awk", ROOT / "requirements/convert.txt"]
    kept = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    names = [set(re.findall(r"^([a-z0-9-]+)==", text, re.M)) for text in (lock, kept)]
    dropped = names[0] - names[1]
    assert {"torch", "triton", "nvidia-cublas"} <= dropped
    assert all(name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-")) for name in dropped)
    blocks = re.findall(r"^[^ ].*\n(?: .*\n?)*", kept, re.M)
    assert all("--hash=sha256:" in block for block in blocks)
    assert len(blocks) == len(names[1])

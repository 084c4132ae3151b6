"""Planning, tools and the lock of `halops images`: no image is built here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from halops.errors import ConfigError, HostError
from halops.images.build import revision_labels
from halops.images.lock import lock_images, with_images
from halops.images.plan import IMAGES, Options, checkout, content_hash, plan_builds
from halops.images.tools import Tool, choose, probe_tool, refusal, shown
from halops.site import Site, load_site, render_site

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64
TRAIN = f"reg.example/ops/halops-train@{DIGEST}"
MERGE = f"reg.example/ops/halops-merge@{DIGEST}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout as far as images need one."""
    for name in ("images", "requirements", "halops"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    return tmp_path


def tags(root: Path, **options: object) -> dict[str, str]:
    return {build.image.name: build.tag for build in plan_builds(root, (), Options(**options), {})}


# What changes a tag.


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("halops/units.py", {"merge", "train", "convert"}),
        ("halops/llamacpp/toolchain.py", {"merge", "train", "convert", "serve"}),
        ("images/steps/install.sh", {"merge", "train", "convert", "serve"}),
        ("requirements/train.txt", {"train"}),
        ("requirements/merge.txt", {"merge", "convert", "serve"}),
        ("images/convert/Dockerfile", {"convert"}),
        ("images/README.md", set()),
    ],
)
def test_a_tag_changes_with_what_the_image_is_made_from(tree: Path, path: str, changed: set[str]) -> None:
    before = tags(tree)
    with (tree / path).open("a") as stream:
        stream.write("\n# changed\n")
    after = tags(tree)
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_tag_ignores_compiled_files_and_labels_but_not_the_base(tree: Path) -> None:
    before = tags(tree)
    (tree / "halops" / "__pycache__").mkdir()
    (tree / "halops" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert tags(tree) == before
    assert {b.tag for b in plan_builds(tree, (), Options(), {"REVISION": "abc"})} == set(before.values())
    assert tags(tree, build_args={"SOURCE": "https://host/x"}) == before
    assert not set(tags(tree, base_image="debian@sha256:1").values()) & set(before.values())


def test_a_renamed_file_changes_the_hash(tree: Path) -> None:
    before = content_hash(tree, ["halops"], {}, None)
    (tree / "halops" / "units.py").rename(tree / "halops" / "unit.py")
    assert content_hash(tree, ["halops"], {}, None) != before


def test_the_cuda_server_has_a_tag_and_a_target_of_its_own(tree: Path) -> None:
    cpu, cuda = (plan_builds(tree, ["serve"], Options(serve=kind), {})[0] for kind in ("cpu", "cuda"))
    assert (cpu.target, cuda.target) == ("cpu", "cuda")
    assert cuda.tag.endswith("-cuda")
    assert cpu.tag.split("-")[1] != cuda.tag.split("-")[1]


def test_names_without_a_registry_say_that_they_are_local(tree: Path) -> None:
    assert plan_builds(tree, ["merge"], Options(), {})[0].repository == "localhost/halops-merge"
    assert (
        plan_builds(tree, ["merge"], Options(registry="r.example/t/"), {})[0].repository == "r.example/t/halops-merge"
    )


def test_no_checkout_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source checkout") as caught:
        checkout(tmp_path)
    assert "clone" in (caught.value.remedy or "")
    assert checkout(tmp_path, ROOT) == ROOT


@pytest.mark.parametrize("name", IMAGES)
def test_what_a_dockerfile_copies_is_in_its_tag(name: str) -> None:
    image = IMAGES[name]
    text = (ROOT / image.dockerfile).read_text().replace("\\\n", " ")
    copied = [
        source
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert copied
    assert all((ROOT / source).exists() for source in copied)
    assert [c for c in copied if not any(c == s or c.startswith(f"{s}/") for s in image.sources)] == []


# Tools.


def test_command_lines() -> None:
    build = plan_builds(ROOT, ["serve"], Options(base_image="b@sha256:1", secrets=["id=ca,src=/c"]), {"VERSION": "1"})[
        0
    ]
    common = ["--file", "images/serve/Dockerfile", "--tag", build.reference, "--target", "cpu", "--build-arg",
              "BASE=b@sha256:1", "--build-arg", "VERSION=1", "--secret", "id=ca,src=/c", "."]  # fmt: skip
    assert Tool("docker").build(build) == ["docker", "build", "--progress", "plain", *common]
    assert Tool("podman").build(build) == ["podman", "build", "--layers", *common]
    assert Tool("buildah").build(build) == ["buildah", "build", "--layers", *common]
    assert Tool("docker").push("r/x:1", "/d") == ["docker", "push", "r/x:1"]
    assert Tool("buildah").push("r/x:1", "/d") == ["buildah", "push", "--digestfile", "/d", "r/x:1"]


@pytest.mark.parametrize(
    ("working", "wanted", "found"),
    [
        ({"docker", "podman", "buildah"}, None, "docker"),
        ({"podman", "buildah"}, None, "podman"),
        ({"buildah"}, None, "buildah"),
        ({"docker", "buildah"}, "buildah", "buildah"),
        (set(), None, None),
        ({"docker"}, "podman", None),
    ],
)
def test_the_first_tool_that_works_is_taken(working: set[str], wanted: str | None, found: str | None) -> None:
    def probe(name: str) -> str | None:
        return None if name in working else f"no {name} here"

    if found:
        assert choose(wanted, probe).name == found
        return
    with pytest.raises(HostError) as caught:
        choose(wanted, probe)
    assert f"no {wanted or 'buildah'} here" in caught.value.what
    assert "apt-get install" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("script", "problem"),
    [("exit 0", None), ("echo Cannot connect >&2; exit 1", "Cannot connect"), ("exit 3", "exit code 3")],
)
def test_a_client_without_its_daemon_is_no_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str | None
) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert probe_tool("docker") == problem


@pytest.mark.parametrize(
    ("tool", "answer", "digest"),
    [
        ("docker", [{"RepoDigests": [f"other/x@sha256:{'b' * 64}", f"r/x@{DIGEST}"]}], DIGEST),
        ("docker", [{"RepoDigests": []}], None),
        ("docker", [], None),
        ("podman", [{"Digest": DIGEST}], DIGEST),
        ("buildah", [{"digest": DIGEST}], DIGEST),
        ("buildah", [{"digest": ""}], None),
    ],
)
def test_digests_from_the_tools_answers(tool: str, answer: list[object], digest: str | None) -> None:
    assert Tool(tool).digest_of(json.dumps(answer), "r/x") == digest


@pytest.mark.parametrize(
    ("output", "what", "remedy"),
    [
        ("Error: writing blob: unauthorized: authentication required", "refuses this user", "docker login r.example"),
        ("denied: requested access to the resource is denied", "refuses this user", "halops-x"),
        ("Get https://r.example/v2/: dial tcp: lookup r.example: no such host", "can't be reached", "registry:"),
        ("Get \"https://r/v2/\": http: server gave HTTP response to HTTPS client", "plain HTTP", "insecure"),
        ("tls: failed to verify certificate: x509: unknown authority", "isn't trusted", "certificate"),
        ("name unknown: The repository does not exist", "no such repository", "create"),
        ("write /var/lib/x: no space left on device", "disk is full", "free"),
        ("something new", "something new", ""),
    ],
)  # fmt: skip
def test_a_refused_push_says_what_to_do(output: str, what: str, remedy: str) -> None:
    error = refusal(Tool("docker"), "r.example/ops/halops-x", f"first line\n{output}\n")
    assert what in error.what
    assert remedy in (error.remedy or "")


def test_passwords_in_urls_are_not_shown() -> None:
    assert shown(["x", "--build-arg", "I=https://me:pw@host/simple"]) == "x --build-arg 'I=https://***@host/simple'"


def test_the_source_label_has_no_password(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", "https://me:pw@host/x.git"], check=True)
    assert revision_labels(tmp_path)["SOURCE"] == "https://host/x.git"


# The lock in halops.yaml.

KEPT = "# mine\nstore: s3://ops/halops   # the bucket\n"
NEW = {"train": TRAIN, "merge": MERGE}


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEPT,
        KEPT.rstrip(),
        KEPT
        + "images:\n  # pinned by hand\n  serve: r/s@sha256:1   # old\n  train: r/t@sha256:2\nqueue: gpu  # ours\n",
        KEPT + "images:\n    train: 'r/t@sha256:2'\n\n# after\nqueue: gpu\n",
        KEPT + "images: {train: r/t@sha256:2}\nqueue: gpu\n",
        KEPT + "images: {}\nqueue: gpu\n",
        KEPT + "images:\nqueue: gpu\n",
        KEPT + "images:   # none yet\nqueue: gpu\n",
        KEPT + "images: {train: a,\n  serve: b,}  # two lines\n",
        KEPT + "images:\n  train: r/t",
        KEPT + "# Größe: ⅔\nimages: {train: x}\n",
        render_site(Site(store="s3://ops/halops")),
    ],
)
def test_only_images_change_and_comments_stay(text: str) -> None:
    new = with_images(text, NEW)
    assert new is not None
    before, after = yaml.safe_load(text) or {}, yaml.safe_load(new)
    assert after.pop("images") == (before.pop("images", None) or {}) | NEW
    assert after == before
    comments = [
        line.partition("#")[2] for line in text.splitlines() if "#" in line and "images: {train: IMAGE" not in line
    ]
    assert all(comment in new for comment in comments)
    assert with_images(new, NEW) == new


@pytest.mark.parametrize("text", ["images: &x {train: a}\nqueue: *x\n", "{images: {train: a}, images: {train: b}}\n"])
def test_a_file_that_would_change_elsewhere_is_left_alone(text: str) -> None:
    assert with_images(text, {"train": TRAIN}) is None


def test_the_lock_keeps_mode_and_link_and_reads_back(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    real.write_text(KEPT)
    real.chmod(0o640)
    (tmp_path / "halops.yaml").symlink_to(real)
    path = lock_images(tmp_path, NEW)
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert load_site(path) == Site(store="s3://ops/halops", images=NEW)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["halops.yaml", "real.yaml"]


def test_a_missing_site_file_is_made_with_the_registry(tmp_path: Path) -> None:
    path = lock_images(tmp_path, NEW, "reg.example/ops")
    assert load_site(path) == Site(registry="reg.example/ops", images=NEW)


# The command.


def halops(*argv: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "halops", "images", *argv], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)} | env)  # fmt: skip


def test_push_without_a_registry(tmp_path: Path) -> None:
    result = halops("--push", cwd=tmp_path)
    assert result.returncode == 42
    assert "no registry to push to" in result.stderr
    assert "--registry" in result.stderr


def test_without_any_tool(tmp_path: Path) -> None:
    result = halops("--dry-run", cwd=tmp_path, PATH=str(tmp_path))
    assert result.returncode == 5
    assert "docker: not installed; podman: not installed; buildah: not installed" in result.stderr


def test_a_whole_pass_by_a_tool_that_only_records(tmp_path: Path) -> None:
    """The command around a stand-in for podman: the real tools build in tools/test-images.sh."""
    (tmp_path / "podman").write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncase $1 in push) echo {DIGEST} >"$3";; build) echo "STEP 1";; esac\n'
    )
    (tmp_path / "podman").chmod(0o755)
    (tmp_path / "halops.yaml").write_text(KEPT + "registry: reg.example/ops\nimages: {serve: r/s@sha256:1}\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = halops(
        "--push", "--tool", "podman", "--only", "train", "--only", "merge", "--json", cwd=tmp_path, PATH=path
    )
    assert result.returncode == 0, result.stderr
    assert [each["locked"] for each in json.loads(result.stdout)] == [MERGE, TRAIN]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["version", "build", "build", "push", "push"]
    site = load_site(tmp_path / "halops.yaml")
    assert site.images == {"serve": "r/s@sha256:1", "train": TRAIN, "merge": MERGE}
    assert "# the bucket" in (tmp_path / "halops.yaml").read_text()


def test_a_failed_build_pushes_and_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / "podman").write_text(
        f'#!/bin/sh\necho "$1" >>{tmp_path}/calls\n[ "$1" = version ] && exit 0\n'
        'echo "STEP 3: no such file" >&2; exit 1\n'
    )
    (tmp_path / "podman").chmod(0o755)
    (tmp_path / "halops.yaml").write_text("registry: reg.example/ops\n")
    result = halops("--push", "--tool", "podman", cwd=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result.returncode == 5
    assert "STEP 3: no such file" in result.stderr
    assert "merge.log" in result.stderr
    assert (tmp_path / "calls").read_text().split() == ["version", "build"]
    assert (tmp_path / "halops.yaml").read_text() == "registry: reg.example/ops\n"

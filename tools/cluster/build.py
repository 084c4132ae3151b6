"""Building the cluster's programs once, each part into a folder of the cache that its pins name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tools.cluster import programs
from tools.cluster.parts import PARTS, Part, pinned
from tools.cluster.shell import ClusterError, run, say
from tools.cluster.state import ROOT, cache, lock

VERSION: Final = "k8s.io/component-base/version"
KUEUE_MANIFESTS: Final = ("config/components/crd/bases", "config/components/webhook/manifests.yaml")
ENVIRONMENT: Final = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOROOT": ""}
CORES: Final = os.cpu_count() or 2


def build(*names: str) -> None:
    """Build the named parts, or all, except for those that are there. Whoever comes second waits and finds them."""
    programs.install()
    parts = [PARTS[name] for name in names or PARTS]
    if all(part.built for part in parts):
        return
    root = cache() / "cluster"
    say(f"building in {root}, about {max(1, round(_minutes(parts)))} min")
    with lock(root / "lock"):
        for left in root.glob(".*-*"):  # of a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        for position, part in enumerate(parts):
            if not part.built:
                _build(part, parts[position:])
        shutil.rmtree(root / "toolchain", ignore_errors=True)


def _minutes(parts: Iterable[Part]) -> float:
    return sum(part.minutes for part in parts if not part.built) * 2 / CORES


def _build(part: Part, left: list[Part]) -> None:
    """Compile into a temporary folder, then rename: a part that is there is whole."""
    root = part.folder.parent
    work = Path(tempfile.mkdtemp(prefix=f".{part.name}-", dir=root))
    try:
        go = run(ROOT / "tools" / "go.sh", pinned("go", part.module), root / "toolchain").strip()
        _compile(go, part, work, left)
        if part.name == "kueue":
            _copy_manifests(go, part, work)
        work.chmod(0o755)
        work.rename(part.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile(go: str, part: Part, work: Path, left: list[Part]) -> None:
    flags = ["-v", "-p", str(CORES), "-trimpath", "-buildvcs=false", "-tags", part.tags]
    flags += ["-ldflags", f"-s -w {_version_flags(part)}", "-o", f"{work}/"]
    started, packages, messages = time.monotonic(), 0, list[str]()
    due = started + 15
    with subprocess.Popen(
        [go, "build", *flags, *part.targets],
        cwd=part.source,
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:  # a package that is begun, or what is wrong with one
            if " " in line:
                messages.append(line.rstrip())
            packages += " " not in line
            if (now := time.monotonic()) > due:
                due = now + 15
                rest = max(0.0, _minutes(left) - (now - started) / 60)
                say(f"{part.name}: {packages} packages, {now - started:.0f} s; about {rest:.0f} min left in all")
    if process.returncode:
        raise ClusterError("\n".join([f"building {part.name} failed", *messages[-20:]]))
    say(f"{part.name}: built in {time.monotonic() - started:.0f} s")


def _version_flags(part: Part) -> str:
    """What Kubernetes' programs say that they are; without it they call themselves v0.0.0."""
    if part.name != "kubernetes":
        return ""
    version = pinned("k8s.io/kubernetes")
    major, minor, _ = version.split(".")
    return f"-X {VERSION}.gitVersion=v{version} -X {VERSION}.gitMajor={major} -X {VERSION}.gitMinor={minor}"


def _copy_manifests(go: str, part: Part, work: Path) -> None:
    """Kueue's kinds and webhooks, out of its module's folder."""
    command = [go, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kueue"]
    found = subprocess.run(
        command, cwd=part.source, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    for manifest in KUEUE_MANIFESTS:
        source, target = Path(found.stdout.strip()) / manifest, work / Path(manifest).name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)

"""Run the plan: build, push, ask for digests. Output of the tools goes to a log and to a listener."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halops import __version__
from halops.errors import HostError
from halops.images.plan import Build
from halops.images.tools import Tool, last_line, refusal, shown

Listener = Callable[[str], None]
_CREDENTIALS = re.compile(r"//[^/@]+@")


@dataclass(frozen=True)
class Built:
    """An image that is there: `locked` is REPOSITORY@sha256:DIGEST, or None where the tool gives no digest."""

    name: str
    reference: str
    locked: str | None
    seconds: float


def build_all(builds: Sequence[Build], tool: Tool, root: Path, logs: Path, *, push: bool, say: Listener) -> list[Built]:
    """Build each image, then push each. Nothing is pushed unless all are built.

    Args:
        logs: folder for the tools' output, one file an image.
        say: gets a line at a time.

    Raises HostError for a failed build or a refused push.
    """
    logs.mkdir(parents=True, exist_ok=True)
    seconds = {}
    for number, build in enumerate(builds, 1):
        say(f"[{number}/{len(builds)}] {build.reference}")
        began = time.monotonic()
        _build(build, tool, root, logs / f"{build.image.name}.log", say)
        seconds[build.image.name] = round(time.monotonic() - began, 1)
    built = []
    for build in builds:
        digest = _push(build, tool, say) if push else local_digest(build, tool)
        locked = f"{build.repository}@{digest}" if digest else None
        built.append(Built(build.image.name, build.reference, locked, seconds[build.image.name]))
    return built


def _build(build: Build, tool: Tool, root: Path, log: Path, say: Listener) -> None:
    argv = tool.build(build)
    env = os.environ | {"DOCKER_BUILDKIT": "1"}  # mounts of secrets and caches need it
    code, output = _run(argv, log, say, cwd=root, env=env)
    if code != 0:
        raise HostError(
            f"{tool.name} can't build {build.image.name}: {last_line(output)}",
            where=str(log),
            remedy=f"the log has it all; by hand: {shown(argv)}",
        )


def _run(
    argv: Sequence[str], log: Path, say: Listener, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and output of a tool, its lines shown as they come."""
    lines = []
    with log.open("w") as stream:
        child = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip
        assert child.stdout is not None
        for line in child.stdout:
            stream.write(line)
            lines.append(line)
            say(f"    {line.rstrip()}")
        return child.wait(), "".join(lines)


def _push(build: Build, tool: Tool, say: Listener) -> str:
    """Push, and the digest under which the registry has it."""
    say(f"pushing {build.reference}")
    with tempfile.TemporaryDirectory() as folder:
        digest_file, log = Path(folder) / "digest", Path(folder) / "log"
        code, output = _run(tool.push(build.reference, str(digest_file)), log, say)
        if code != 0:
            raise refusal(tool, build.repository, output)
        digest = digest_file.read_text().strip() if digest_file.exists() else local_digest(build, tool)
    if not digest:
        raise HostError(f"{tool.name} pushed {build.reference}, and doesn't say its digest", where=build.repository)
    return digest


def local_digest(build: Build, tool: Tool) -> str | None:
    """The digest that the tool knows of an image, if any."""
    answer = subprocess.run(tool.inspect(build.reference), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return tool.digest_of(answer.stdout, build.repository) if answer.returncode == 0 else None


def revision_labels(root: Path) -> dict[str, str]:
    """VERSION, and REVISION and SOURCE as far as git knows them; a URL's user and password are left out."""
    labels = {"VERSION": __version__}
    for name, argv in (("REVISION", ["rev-parse", "HEAD"]), ("SOURCE", ["remote", "get-url", "origin"])):
        try:
            answer = subprocess.run(["git", "-C", str(root), *argv], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            continue
        text = answer.stdout.strip()
        if answer.returncode == 0 and (name == "REVISION" or text.startswith(("http://", "https://"))):
            labels[name] = _CREDENTIALS.sub("//", text)
    return labels

"""docker, podman and buildah: their command lines, their answers, and which of them is at hand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from halops.errors import HostError
from halops.images.plan import Build

Name = Literal["docker", "podman", "buildah"]
NAMES: Final[tuple[Name, ...]] = ("docker", "podman", "buildah")
PROBE_SECONDS: Final = 20  # docker's client waits for a daemon that isn't there
# Each asks for what a build needs: docker's server, not its client alone.
_PROBES: Final[dict[Name, tuple[str, ...]]] = {
    "docker": ("docker", "version", "--format", "{{.Server.Version}}"),
    "podman": ("podman", "version", "--format", "{{.Client.Version}}"),
    "buildah": ("buildah", "version"),
}
INSTALL: Final = "install docker, podman or buildah (Debian: apt-get install buildah), or start docker's service"
_PASSWORD: Final = re.compile(r"//[^/@\s]+@")
Probe = Callable[[Name], str | None]


@dataclass(frozen=True)
class Tool:
    """One of the three, by its command lines."""

    name: Name

    def build(self, build: Build) -> list[str]:
        """Builds and names an image; run it in the checkout."""
        argv = [self.name, "build", *(("--progress", "plain") if self.name == "docker" else ("--layers",))]
        argv += ["--file", build.image.dockerfile, "--tag", build.reference]
        argv += ["--target", build.target] if build.target else []
        for name, value in build.args.items():
            argv += ["--build-arg", f"{name}={value}"]
        for secret in build.secrets:
            argv += ["--secret", secret]
        return [*argv, "."]

    def push(self, reference: str, digest_file: str) -> list[str]:
        """Pushes it. podman and buildah write the digest that the registry took to `digest_file`."""
        if self.name == "docker":
            return ["docker", "push", reference]
        return [self.name, "push", "--digestfile", digest_file, reference]

    def inspect(self, reference: str) -> list[str]:
        """Prints JSON for `digest_of`."""
        if self.name == "buildah":
            return ["buildah", "images", "--json", reference]
        return [self.name, "image", "inspect", reference]

    def digest_of(self, answer: str, repository: str) -> str | None:
        """`sha256:...` of the image's manifest, from what `inspect` printed; None if the tool knows none yet."""
        entries = json.loads(answer or "[]")
        found: dict[str, Any] = entries[0] if entries else {}
        if self.name == "docker":
            pushed = dict(each.split("@", 1) for each in found.get("RepoDigests") or [] if "@" in each)
            return pushed.get(repository)
        return found.get("digest") or found.get("Digest") or None


def choose(wanted: Name | None, probe: Probe) -> Tool:
    """The tool to use: the wanted one, or the first that works.

    Args:
        probe: why a tool can't be used; None if it can.

    Raises HostError with what each lacks.
    """
    problems = []
    for name in (wanted,) if wanted else NAMES:
        problem = probe(name)
        if problem is None:
            return Tool(name)
        problems.append(f"{name}: {problem}")
    what = f"{wanted} can't build images here" if wanted else "nothing here can build images"
    raise HostError(f"{what}: {'; '.join(problems)}", remedy=INSTALL)


def probe_tool(name: Name) -> str | None:
    """Ask the tool itself. Returns why it can't be used, or None."""
    if not shutil.which(name):
        return "not installed"
    try:
        answer = subprocess.run(
            _PROBES[name], capture_output=True, text=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {PROBE_SECONDS} s"
    except OSError as error:
        return str(error.strerror)
    return None if answer.returncode == 0 else last_line(answer.stderr) or f"exit code {answer.returncode}"


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


# What a registry's refusal means. The first that is found wins.
_REFUSALS: Final = (
    (
        ("unauthorized", "authentication required", "denied", "no basic auth", "403 (forbidden)"),
        "the registry refuses this user",
        "{tool} login {host}, with an account that may push to {repository}",
    ),
    (
        ("server gave http response", "http: server gave"),
        "the registry speaks plain HTTP",
        "serve it over https, or name it as an insecure registry in {tool}'s settings",
    ),
    (
        ("x509", "certificate"),
        "the registry's certificate isn't trusted here",
        "add its authority's certificate to this machine or to {tool}'s settings",
    ),
    (
        ("no such host", "connection refused", "i/o timeout", "network is unreachable", "server misbehaving"),
        "the registry can't be reached",
        "check `registry:` in halops.yaml (or --registry) and the network",
    ),
    (
        ("name unknown", "not found", "does not exist"),
        "the registry has no such repository",
        "create {repository} there; some registries don't make one at the first push",
    ),
    (("no space left",), "the disk is full", "free some space: {tool} keeps layers of old builds"),
)


def refusal(tool: Tool, repository: str, output: str) -> HostError:
    """What a failed push means, from what the tool printed."""
    said = output.lower()
    for signs, what, remedy in _REFUSALS:
        if any(sign in said for sign in signs):
            hint = remedy.format(tool=tool.name, host=_host(repository), repository=repository)
            return HostError(f"{what}: {last_line(output)}", where=repository, remedy=hint)
    return HostError(f"the push failed: {last_line(output)}", where=repository)


def _host(repository: str) -> str:
    """The registry of a repository; Docker Hub's names begin without one."""
    first = repository.partition("/")[0]
    return first if "." in first or ":" in first else "docker.io"


def shown(argv: Sequence[str]) -> str:
    """A command line as a person would type it, without the passwords in its URLs."""
    return " ".join(shlex.quote(_PASSWORD.sub("//***@", part)) for part in argv)

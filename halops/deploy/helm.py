"""The helm command: each call is one that a person could type, and its refusals are passed on."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from halops.errors import HostError, StageError

Values = dict[str, Any]
KEPT_REVISIONS = 20


@dataclass(frozen=True)
class Revision:
    """One of a release's revisions."""

    number: int
    status: str  # deployed, superseded, failed, ...
    description: str


@dataclass(frozen=True)
class Helm:
    """helm in one namespace of the current kubeconfig's cluster."""

    namespace: str
    timeout: str = "30m"  # a model's load included

    def upgrade(
        self, release: str, chart: Path, values: Values, *, files: Sequence[Path] = (), sets: Sequence[str] = (),
        wait: bool = True, description: str = "", dry_run: bool = False,
    ) -> str:  # fmt: skip
        """`helm upgrade --install`: `files` first, then `values`, then `sets`. Returns what helm printed.

        Raises StageError with helm's own words.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as written:
            yaml.safe_dump(values, written, sort_keys=False)
            written.flush()
            words = ["upgrade", "--install", release, str(chart), "--reset-values", f"--history-max={KEPT_REVISIONS}"]
            words += [word for file in (*files, written.name) for word in ("--values", str(file))]
            words += [word for item in sets for word in ("--set", item)]
            words += ["--description", description] if description else []
            words += ["--wait", f"--timeout={self.timeout}"] if wait else []
            words += ["--dry-run=client"] if dry_run else []
            return self.run(*words)

    def values(self, release: str, revision: int | None = None) -> Values | None:
        """The values that a release was given; None if there is no such release (or revision)."""
        words = ["get", "values", release, "--output=json", *([f"--revision={revision}"] if revision else [])]
        try:
            found: Values | None = json.loads(self.run(*words))
        except StageError as error:
            if "not found" in error.what:
                return None
            raise
        return found or {}

    def history(self, release: str) -> list[Revision]:
        """A release's revisions, newest first; none if there is no such release."""
        try:
            rows = json.loads(self.run("history", release, "--output=json"))
        except StageError as error:
            if "not found" in error.what:
                return []
            raise
        found = [Revision(row["revision"], row["status"], row.get("description") or "") for row in rows]
        return sorted(found, key=lambda revision: -revision.number)

    def rollback(self, release: str, revision: int) -> str:
        """Go back to a revision, and wait until its pods answer. Raises StageError."""
        return self.run("rollback", release, str(revision), "--wait", f"--timeout={self.timeout}")

    def uninstall(self, release: str) -> str:
        """Take a release away; its pods drain. Raises StageError."""
        return self.run("uninstall", release)

    def run(self, *words: str) -> str:
        """Any helm command's output. Raises HostError without helm, StageError when it fails."""
        program = shutil.which("helm")
        if not program:
            raise HostError("helm isn't installed", remedy="install Helm 3.8 or newer; `halops values RUN` needs none")
        command = [program, "--namespace", self.namespace, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            said = done.stderr.strip().removeprefix("Error: ").strip() or f"it ended with {done.returncode}"
            raise StageError(f"helm {words[0]}: {said}", where=f"namespace {self.namespace}")
        return done.stdout

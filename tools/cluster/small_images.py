"""The images that the cluster itself needs, and a small one for its tests: one static program each, and no base."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tools.cluster.parts import PARTS, program
from tools.cluster.shell import run, say, succeeds

PAUSE: Final = "localhost/halops-cluster-pause:1"
BUSYBOX: Final = "localhost/halops-cluster-busybox:1"

# Sleeps until it is told to end, and takes in orphans: all that the first process of a pod does.
PAUSE_SOURCE: Final = """
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int number) { exit(0); }
static void reap(int number) { while (waitpid(-1, NULL, WNOHANG) > 0) {} }

int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"""


def coredns() -> str:
    """CoreDNS' image. Its tag is that of the program, so that a new one isn't taken for the old."""
    return f"localhost/halops-cluster-coredns:{PARTS['coredns'].key()}"


def make() -> list[str]:
    """Make those that buildah's store lacks. Returns the names of all."""
    makers = {PAUSE: _pause, coredns(): _coredns, BUSYBOX: _busybox}
    for name, maker in makers.items():
        if not succeeds("buildah", "images", "--quiet", name):
            say(f"making {name}")
            with tempfile.TemporaryDirectory() as folder:
                _commit(name, Path(folder), maker(Path(folder)))
    return list(makers)


def _commit(name: str, root: Path, entry: str) -> None:
    """An image of one folder's files; the same files are the same image."""
    container = run("buildah", "from", "scratch").strip()
    try:
        run("buildah", "copy", "--quiet", container, root, "/")
        run("buildah", "config", "--entrypoint", f'["{entry}"]', "--env", "PATH=/bin", container)
        run("buildah", "commit", "--quiet", "--timestamp", "0", container, name)
    finally:
        run("buildah", "rm", container)


def _pause(root: Path) -> str:
    command = ["gcc", "-static", "-Os", "-s", "-o", str(root / "pause"), "-x", "c", "-"]
    subprocess.run(command, input=PAUSE_SOURCE, text=True, check=True)
    return "/pause"


def _coredns(root: Path) -> str:
    shutil.copy(program("coredns", "coredns"), root / "coredns")
    return "/coredns"


def _busybox(root: Path) -> str:
    """Debian's static busybox under the names of its applets. (Its wget crashes on names: use nc.)"""
    (root / "bin").mkdir()
    (root / "tmp").mkdir(mode=0o1777)
    binary = root / "bin" / "busybox"
    shutil.copy(shutil.which("busybox") or "/bin/busybox", binary)
    for applet in run(binary, "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return "/bin/busybox"

"""What comes from Debian."""

from __future__ import annotations

import os
import shutil
from typing import Final

from tools.cluster.shell import ClusterError, run, say, succeeds

# program -> Debian package
PROGRAMS: Final = {
    "runc": "runc",
    "buildah": "buildah",
    "nft": "nftables",  # kube-proxy's and the port mapper's
    "iptables-legacy-restore": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "openssl": "openssl",
    "busybox": "busybox-static",
    "gcc": "gcc",
}
EXTRA: Final = ("libc6-dev",)  # what gcc needs to link statically


def install() -> None:
    """Install the packages of programs that are missing. Raises ClusterError when that isn't possible."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"no apt-get here; install by hand: {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    command = ("apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends", *missing, *EXTRA)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    if not succeeds(*command, "--print-uris"):  # no lists, or old ones
        run("apt-get", "-o", "DPkg::Lock::Timeout=600", "update", environment=environment)
    run(*command, environment=environment)

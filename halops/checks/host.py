"""The machine: disk, memory, cores, a port to serve on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from halops.checks.base import Check, fail, ok, skip, warn
from halops.units import human_bytes

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNLIMITED = 1 << 60  # what cgroup v1 says instead of "max"


def free_disk(folder: Path) -> int | None:
    """Free bytes where `folder` is, or will be; None if that can't be told."""
    for place in (folder, *folder.parents):
        if place.exists():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def disk(name: str, where: Path, free: int | None, needed: int, stage: str) -> Check:
    """Pure: room for the largest stage, or for what is kept.

    Args:
        stage: what needs the room, in words.
    """
    if free is None:
        return skip(name, f"{where} can't be looked at")
    said = f"{human_bytes(free)} free at {where}, {human_bytes(needed)} needed for {stage}"
    if free < needed:
        return fail(name, said, "free some space, or put the store and HALOPS_WORK on a larger disk")
    if free < 1.15 * needed:
        return warn(name, said, "close to the limit: free some space before a long run")
    return ok(name, said)


def memory_limit(meminfo: str, limits: list[str]) -> int | None:
    """Pure: bytes that a new process may use: available memory, or a container's limit if that is lower.

    Args:
        meminfo: the text of /proc/meminfo.
        limits: the texts of the cgroup's limit files, as far as there are any.
    """
    found = [int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    found += [int(text) for text in map(str.strip, limits) if text.isdigit() and int(text) < UNLIMITED]
    return min(found, default=None)


def available_memory() -> int | None:
    """Bytes of memory to be had on this machine; None where it doesn't tell."""
    texts = [path.read_text() for path in map(Path, CGROUP_LIMITS) if path.is_file()]
    meminfo = Path("/proc/meminfo")
    return memory_limit(meminfo.read_text() if meminfo.is_file() else "", texts)


def ram(available: int | None, needed: int, stage: str) -> Check:
    """Pure. The need is an upper bound (every row at full length), so a lack only warns."""
    if available is None:
        return skip("RAM", "this system doesn't tell")
    said = f"{human_bytes(available)} available, up to {human_bytes(needed)} for {stage}"
    if available < needed:
        return warn("RAM", said, "close other programs; a smaller batch or max_seq_length needs less")
    return ok("RAM", said)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(count: int, threads: int) -> Check:
    """Pure: serving takes `threads`, but no more than there are."""
    if count < threads:
        return ok("cores", f"{count}; serving uses them all instead of serving.threads = {threads}")
    return ok("cores", f"{count}, of which serving uses {threads}")


def port(host: str, number: int) -> Check:
    """Whether the serving port is free on this machine."""
    from halops.errors import BusyError, HostError
    from halops.llamacpp.ports import require_free

    try:
        require_free(host, number)
    except BusyError as error:
        return warn("port", error.what, error.remedy or "")  # a run is served later, if at all
    except HostError as error:
        return fail("port", error.what, error.remedy or "")
    return ok("port", f"{host}:{number} is free")

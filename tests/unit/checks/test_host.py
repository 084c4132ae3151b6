"""Disk, memory, cores, port: decisions by table, probes on this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from halops.checks import host

GB = 10**9


@pytest.mark.parametrize(("free", "status"), [(None, "skip"), (29 * GB, "fail"), (31 * GB, "warn"), (80 * GB, "ok")])
def test_disk(free: int | None, status: str) -> None:
    check = host.disk("disk", Path("/x"), free, 30 * GB, "convert")
    assert check.status == status
    if status in ("fail", "warn"):
        assert "30.0 GB needed for convert" in check.detail
        assert check.remedy


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    free = host.free_disk(tmp_path / "a" / "b")
    assert free
    assert free == pytest.approx(host.free_disk(tmp_path), rel=0.05)


@pytest.mark.parametrize(
    ("meminfo", "limits", "limit"),
    [
        ("MemTotal: 100 kB\nMemAvailable:    2048 kB\n", [], 2048 * 1024),
        ("MemAvailable: 2048 kB\n", ["1000000\n"], 1_000_000),
        ("MemAvailable: 2048 kB\n", ["max\n"], 2048 * 1024),
        ("MemAvailable: 2048 kB\n", ["9223372036854771712\n"], 2048 * 1024),
        ("", [], None),
    ],
)
def test_memory_limit(meminfo: str, limits: list[str], limit: int | None) -> None:
    assert host.memory_limit(meminfo, limits) == limit


def test_ram() -> None:
    assert host.ram(8 * GB, 6 * GB, "train").status == "ok"
    assert host.ram(None, 6 * GB, "train").status == "skip"
    lacking = host.ram(4 * GB, 6 * GB, "train")
    assert lacking.status == "warn"
    assert lacking.detail == "4.0 GB available, up to 6.0 GB for train"


def test_this_machine_has_memory_and_cores() -> None:
    assert (host.available_memory() or 0) > 100 * 2**20
    assert host.usable_cores() >= 1


def test_cores() -> None:
    assert "uses them all" in host.cores(2, 6).detail
    assert host.cores(8, 6).detail == "8, of which serving uses 6"


def test_port_free_then_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        check = host.port("127.0.0.1", number)
        assert check.status == "warn"
        assert str(number) in check.detail
        assert check.remedy
    assert host.port("127.0.0.1", number).status == "ok"


def test_an_address_that_is_not_ours() -> None:
    check = host.port("192.0.2.1", 8081)
    assert check.status == "fail"
    assert "serving.host" in check.remedy

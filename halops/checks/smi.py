"""Reads what `nvidia-smi -q -x` says: cards, their memory, who holds it, the driver and its CUDA version.

The XML names graphics processes (Xorg) too, which the CSV query of compute apps leaves out.
"""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from halops.artifact import Frozen
from halops.units import MIB

TIMEOUT_SECONDS = 30  # without persistence mode the driver is loaded for each query


class Holder(Frozen):
    """A process that uses a card. `memory` is None where the driver doesn't tell (a container, WDDM)."""

    pid: int
    name: str
    memory: int | None = None


class Partition(Frozen):
    """A MIG device, in bytes."""

    index: int
    total: int
    free: int


class Card(Frozen):
    """One GPU; memory in bytes."""

    index: int
    name: str
    uuid: str
    total: int
    used: int
    free: int
    mig: bool = False
    partitions: tuple[Partition, ...] = ()
    holders: tuple[Holder, ...] = ()


class Seen(Frozen):
    """What nvidia-smi found. `problem` is set where it found nothing; `absent` where there is no nvidia-smi."""

    driver: str = ""
    cuda: str = ""
    cards: tuple[Card, ...] = ()
    problem: str = ""
    absent: bool = False


def probe(program: str = "nvidia-smi", timeout: float = TIMEOUT_SECONDS) -> Seen:
    """Ask the driver. Never raises: whatever goes wrong is in `problem`."""
    try:
        result = subprocess.run(
            [program, "-q", "-x"], capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        return Seen(problem="nvidia-smi not found", absent=True)
    except subprocess.TimeoutExpired:
        return Seen(problem=f"nvidia-smi gave no answer in {timeout:.0f} s")
    except OSError as error:
        return Seen(problem=f"nvidia-smi can't be run: {error.strerror}")
    return read(result.returncode, result.stdout, result.stderr)


def read(code: int, output: str, errors: str = "") -> Seen:
    """Pure: nvidia-smi's exit code and output -> what it says."""
    text = output.strip()
    if code != 0 or not text.startswith("<?xml"):
        said = " ".join((text or errors.strip()).split()) or f"exit code {code}"
        return Seen(problem=said[:200])
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return Seen(problem="nvidia-smi's answer is not readable XML")
    cards = tuple(_card(index, gpu) for index, gpu in enumerate(root.iter("gpu")))
    driver, cuda = (root.findtext(name, "").strip() for name in ("driver_version", "cuda_version"))
    return Seen(driver=driver, cuda=cuda, cards=cards, problem="" if cards else "no devices were found")


def _card(index: int, gpu: ElementTree.Element) -> Card:
    return Card(
        index=index,
        name=gpu.findtext("product_name", "GPU").strip(),
        uuid=gpu.findtext("uuid", "").strip(),
        total=_memory(gpu, "total") or 0,
        used=_memory(gpu, "used") or 0,
        free=_memory(gpu, "free") or 0,
        mig=gpu.findtext("mig_mode/current_mig", "").strip() == "Enabled",
        partitions=tuple(_partitions(gpu)),
        holders=tuple(_holders(gpu)),
    )


def _partitions(gpu: ElementTree.Element) -> Iterator[Partition]:
    for device in gpu.iterfind("mig_devices/mig_device"):
        total, free = _memory(device, "total"), _memory(device, "free")
        index = _number(device.findtext("index", "0"))
        yield Partition(index=index or 0, total=total or 0, free=free or 0)


def _holders(gpu: ElementTree.Element) -> Iterator[Holder]:
    for process in gpu.iterfind("processes/process_info"):
        pid = _number(process.findtext("pid", ""))
        command = process.findtext("process_name", "").strip()
        name = "" if command in ("N/A", "[Not Found]") else command.split(" ")[0].rpartition("/")[2]
        if pid is not None:
            yield Holder(pid=pid, name=name or "an unnamed process", memory=_mib(process.findtext("used_memory", "")))


def _memory(element: ElementTree.Element, which: str) -> int | None:
    return _mib(element.findtext(f"fb_memory_usage/{which}", ""))


def _mib(text: str) -> int | None:
    number = _number(text)
    return None if number is None else number * MIB


def _number(text: str) -> int | None:
    found = re.match(r"\s*(\d+)", text)
    return int(found[1]) if found else None

"""The GPU: is there one, is it large enough, is it free and if not who holds it, does CUDA fit the driver."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from halops.checks.base import Check, fail, ok, skip, warn
from halops.checks.smi import Card, Seen
from halops.sections import Gpu
from halops.units import GIB, human_gib

PRESENT, MEMORY, DRIVER = "GPU", "GPU memory", "CUDA driver"
NOMINAL = 0.93  # an "8 GB" card shows 7.6 to 8.0 GiB, a 40 GB one 39.4: what counts as that size
INSTALL = "install NVIDIA's driver, or take --profile local, which needs no GPU"


def decide(seen: Seen, wanted: Gpu, needed: int, *, torch_cuda: str | None, visible: str | None) -> list[Check]:
    """Pure: three lines at most.

    Args:
        needed: bytes of GPU memory that training takes, 0 if not known.
        torch_cuda: the CUDA version that torch was built with; None without a CUDA torch.
        visible: CUDA_VISIBLE_DEVICES.
    """
    if not wanted.count:
        return [skip(PRESENT, "not needed by this profile")]
    if seen.problem:
        return [fail(PRESENT, seen.problem, _mend(seen))]
    cards = visible_cards(seen.cards, visible)
    if len(cards) < wanted.count:
        names = f"{len(cards)} of {len(seen.cards)} visible" if visible is not None else f"{len(cards)} found"
        remedy = "unset CUDA_VISIBLE_DEVICES, or name the card in it" if visible is not None else INSTALL
        return [fail(PRESENT, f"{wanted.count} wanted, {names}", remedy)]
    listed = ", ".join(f"{card.index}: {card.name}, {human_gib(card.total)}" for card in cards)
    return [ok(PRESENT, listed), memory(cards, wanted, needed), driver(seen, torch_cuda)]


def visible_cards(cards: tuple[Card, ...], visible: str | None) -> tuple[Card, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves: by index, or by the beginning of a UUID. MIG names count for all."""
    if visible is None:
        return cards
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if any(name.startswith("MIG") for name in names):
        return cards
    return tuple(card for card in cards if any(name == str(card.index) or _is_uuid(name, card.uuid) for name in names))


def _is_uuid(name: str, uuid: str) -> bool:
    return name.startswith("GPU-") and uuid.startswith(name)


def _mend(seen: Seen) -> str:
    text = seen.problem.lower()
    if "driver/library version mismatch" in text:
        return "the driver was updated while it was loaded: reboot, or unload and load the nvidia modules"
    if "couldn't communicate" in text or "could not communicate" in text:
        return "the driver isn't running: `modprobe nvidia`, or install it again for this kernel; `dmesg` says more"
    if "no devices" in text:
        return "the driver sees no card: check `lspci | grep -i nvidia`, and the container's device access"
    if "gave no answer" in text:
        return "the driver hangs: `dmesg | grep -i xid` tells why; a reboot usually mends it"
    return INSTALL


def memory(cards: tuple[Card, ...], wanted: Gpu, needed: int) -> Check:
    """Whether enough cards are large and free enough, and who holds what on the others."""
    need = needed or round(wanted.memory_gib * GIB * NOMINAL)
    free = [card for card in cards if _free(card) >= need]
    if len(free) >= wanted.count:
        best = max(free, key=_free)
        held = _holders(best)
        detail = f"{human_gib(_free(best))} free on {_where(best)}, {human_gib(need)} needed"
        return ok(MEMORY, f"{detail}; {held}" if held else detail)
    best = max(cards, key=lambda card: max(_free(card), card.total if not card.mig else 0))
    if _size(best) < need:
        detail = f"{_where(best)} has {human_gib(_size(best))}, {human_gib(need)} are needed"
        return fail(MEMORY, detail, _shrink(best))
    detail = f"{human_gib(_free(best))} of {human_gib(best.total)} free on {_where(best)}, {human_gib(need)} needed"
    holders = _holders(best) or "held by something that can't be seen from here"
    return fail(MEMORY, f"{detail}; {holders}", _release(best))


def _free(card: Card) -> int:
    """Free bytes of the card, or of its roomiest MIG device."""
    return max((part.free for part in card.partitions), default=0) if card.mig else card.free


def _size(card: Card) -> int:
    return max((part.total for part in card.partitions), default=0) if card.mig else card.total


def _where(card: Card) -> str:
    if not card.mig:
        return f"GPU {card.index}"
    if not card.partitions:
        return f"GPU {card.index}, whose MIG mode is on without any device,"
    part = max(card.partitions, key=lambda part: part.free)
    return f"GPU {card.index}, MIG device {part.index}"


def _holders(card: Card) -> str:
    named = sorted(card.holders, key=lambda holder: -(holder.memory or 0))
    parts = [
        f"{holder.name} (pid {holder.pid})" + (f" {human_gib(holder.memory)}" if holder.memory is not None else "")
        for holder in named
    ]
    return f"held by {', '.join(parts)}" if parts else ""


def _shrink(card: Card) -> str:
    if card.mig:
        return "make a larger MIG device, or switch MIG off: nvidia-smi -mig 0"
    return (
        "a smaller training.max_seq_length or per_device_train_batch_size, or a larger card: `halops plan` shows both"
    )


def _release(card: Card) -> str:
    if not card.holders:
        return "look from the host: processes of other containers aren't listed here"
    biggest = max(card.holders, key=lambda holder: holder.memory or 0)
    return f"end it (kill {biggest.pid}), or wait until it is done"


def driver(seen: Seen, torch_cuda: str | None) -> Check:
    """Whether the driver is new enough for the CUDA that torch brings. Minor versions are compatible."""
    said = f"driver {seen.driver}, CUDA {seen.cuda}"
    if torch_cuda is None:
        return warn(DRIVER, f"{said}; no CUDA build of torch here", "pip install 'halops[train]'")
    ours, theirs = _major(torch_cuda), _major(seen.cuda)
    if ours is None or theirs is None:
        return warn(DRIVER, f"{said}; torch was built for CUDA {torch_cuda}", "check that the two fit together")
    if theirs < ours:
        return fail(DRIVER, f"{said}, but torch was built for CUDA {torch_cuda}",
                    f"update the driver to one for CUDA {ours}, or install a torch for CUDA {theirs}")  # fmt: skip
    return ok(DRIVER, f"{said}; torch for CUDA {torch_cuda}")


def _major(version: str) -> int | None:
    found = re.match(r"(\d+)\.", version)
    return int(found[1]) if found else None


def torch_cuda_version() -> str | None:
    """The CUDA version of the installed torch, read from its version file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "version.py"
        text = path.read_text(errors="replace") if path.is_file() else ""
        if found := re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE):
            return found[1]
    return None

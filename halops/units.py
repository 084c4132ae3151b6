"""Numbers as a person reads them."""

from __future__ import annotations

GIB = 2**30
MIB = 2**20


def human_bytes(count: float) -> str:
    """Decimal units, as file managers and disk makers count: `15.2 GB`, `93 MB`, `512 B`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size * 0.9995:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def human_gib(count: float) -> str:
    """Binary GiB, as GPU memory is counted: `5.9 GiB`."""
    return f"{count / GIB:.1f} GiB"


def human_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def human_count(count: float) -> str:
    """`7.62 B`, `40.4 M`, `71.7 k`, `20`."""
    for unit, size, digits in (("B", 1e9, 2), ("M", 1e6, 1), ("k", 1e3, 1)):
        if count >= size * 0.9995:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f}"

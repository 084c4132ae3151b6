"""Joins the lines of several calls into a table and a plot for docs/performance.md.

python -m bench.train.table results.jsonl more.jsonl --plot docs/performance.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.train.cells import CONTENDERS, cell_of
from halops.units import GIB

COLUMNS = (
    "cell", "who", "tokens/s", "over Unsloth", "busy ms/1000 tokens", "wall/busy", "peak GiB", "reserved", "predicted",
)  # fmt: skip


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All measurements; what isn't one (equality, longest) is left out."""
    return [line for line in _lines(paths) if "tokens_per_second" in line or "out_of_memory" in line]


def longest(paths: Iterable[Path]) -> list[str]:
    """What `bench.train.longest` found, in words."""
    return [
        f"longest row: {line['contender']}, {line['tokens']:,} tokens"
        for line in _lines(paths)
        if line.get("cell") == "longest" and "tokens" in line
    ]


def _lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]


def joined(lines: Sequence[dict[str, Any]]) -> dict[tuple[str, str, float, str], dict[str, Any]]:
    """Medians of each cell, contender, dropout and device over their processes; in each cell ours, then by name."""
    groups: dict[tuple[str, str, float, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["cell"], line["contender"], line["dropout"], line["device"]), []).append(line)
    cells = list(dict.fromkeys(key[0] for key in groups))
    order = sorted(groups, key=lambda key: (cells.index(key[0]), not key[1].startswith("ours"), key[1]))
    return {key: _median(groups[key]) for key in order}


def _median(group: list[dict[str, Any]]) -> dict[str, Any]:
    done = [line for line in group if "tokens_per_second" in line]
    if not done:
        return {"out_of_memory": True, "processes": len(group)}
    made: dict[str, Any] = {"processes": len(done), "versions": done[0]["versions"]}
    for name in ("tokens_per_second", "busy_ms_per_token", "wall_over_busy", "peak_allocated", "peak_reserved",
                 "predicted"):  # fmt: skip
        values = [line[name] for line in done if line.get(name)]
        made[name] = statistics.median(values) if values else None
    rates = [line["tokens_per_second"] for line in done]
    made["spread"] = (max(rates) - min(rates)) / made["tokens_per_second"]
    return made


def table(found: dict[tuple[str, str, float, str], dict[str, Any]]) -> str:
    """Markdown, a section for each device and dropout."""
    parts = []
    for device, dropout in sorted({(key[3], key[2]) for key in found}):
        chosen = {key[:2]: value for key, value in found.items() if (key[3], key[2]) == (device, dropout)}
        parts += [f"**{device}, dropout {dropout:g}**", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
        parts += [_row(_cells(cell, who, value, chosen)) for (cell, who), value in chosen.items()]
        parts.append("")
    return "\n".join(parts)


def _row(values: Iterable[str]) -> str:
    return "| " + " | ".join(values) + " |"


def _cells(cell: str, who: str, value: dict[str, Any], others: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    if value.get("out_of_memory"):
        return [cell, who, "out of memory", *[""] * (len(COLUMNS) - 3)]
    best = max(
        (item["tokens_per_second"] for (where, name), item in others.items()
         if where == cell and name.startswith("unsloth") and "tokens_per_second" in item),
        default=None,
    )  # fmt: skip
    rate, busy, over = value["tokens_per_second"], value["busy_ms_per_token"], value["wall_over_busy"]
    return [
        cell, who, f"{rate:,.0f} (spread {value['spread']:.0%})", f"{rate / best:.2f}" if best else "",
        f"{1000 * busy:.0f}" if busy else "", f"{over:.2f}" if over else "", _gib(value["peak_allocated"]),
        _gib(value["peak_reserved"]), _predicted(value),
    ]  # fmt: skip


def _gib(count: float | None) -> str:
    return f"{count / GIB:.2f}" if count else ""


def _predicted(value: dict[str, Any]) -> str:
    if not value["predicted"]:
        return ""
    return f"{_gib(value['predicted'])} ({value['peak_allocated'] / value['predicted'] - 1:+.0%})"


def cell_in_words(name: str) -> str:
    """A heading of the picture."""
    cell = cell_of(name)
    count = "~390" if cell.short else f"{cell.longest:,}"
    return f"{cell.rows_a_step} rows of {count} tokens a step, {f'{cell.cap:g} GiB' if cell.cap else 'the whole card'}"


def contender_in_words(name: str) -> str:
    """Whose code, and with which settings."""
    if name not in CONTENDERS or name.startswith("ours-"):
        return name
    contender = CONTENDERS[name]
    who = {"ours": "HALops", "trl": "TRL", "unsloth": "Unsloth"}[contender.code]
    how = [f"packed to {contender.packed:,}"] * bool(contender.packed)
    how += [f"{contender.micro} rows at once"] * bool(contender.micro)
    how += ["no padding"] * contender.padding_free + ["no checkpointing"] * (not contender.checkpointing)
    return ", ".join([who, *(how or ["as planned" if name == "ours" else "as configured"])])


def plot(found: dict[tuple[str, str, float, str], dict[str, Any]]) -> str:
    """Bars of tokens a second at dropout 0, as SVG, under a heading for each cell."""
    shown = [(key, value.get("tokens_per_second")) for key, value in found.items() if key[2] == 0]
    most = max((rate for _, rate in shown if rate), default=1.0)
    made, top = [], 0
    for index, ((cell, who, *_), rate) in enumerate(shown):
        if not index or shown[index - 1][0][0] != cell:
            top += 36
            made.append(f'<text x="10" y="{top - 8}" font-weight="bold">{cell_in_words(cell)}</text>')
        top += 24
        width, colour = 400 * (rate or 0) / most, "#2563eb" if who.startswith("ours") else "#9ca3af"
        said = f"{rate:,.0f} tokens/s" if rate else "out of memory"
        made.append(f'<text x="300" y="{top - 11}" text-anchor="end">{contender_in_words(who)}</text>')
        made.append(f'<rect x="310" y="{top - 24}" width="{width:.0f}" height="17" fill="{colour}"/>')
        made.append(f'<text x="{width + 318:.0f}" y="{top - 11}">{said}</text>')
    size = f'width="840" height="{top + 8}" font-size="13" font-family="sans-serif"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *made, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train.table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = joined(read(options.results))
    print(table(found))
    print("\n".join(longest(options.results)))
    if options.plot:
        options.plot.write_text(plot(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The verify stage's findings: gates with their failures, and the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halops.errors import VerificationError

REMEDIES = {
    "files": "convert again from the merged model; edit no GGUF by hand",
    "merge": "merge again; if it fails again, the adapter and the base don't belong together",
    "parity": "serve through the template that was trained with: look at serving.chat_template",
    "stops": "train longer, or allow for some with verify.max_stop_failures",
}
SHOWN = 5


@dataclass
class Gate:
    """One check: how many things were looked at, and a line for each that failed. `allowed` may fail."""

    name: str
    checked: int = 0
    failures: list[str] = field(default_factory=list)
    allowed: int = 0

    @property
    def passed(self) -> bool:
        """Something was checked, and no more failed than may."""
        return self.checked > 0 and len(self.failures) <= self.allowed

    def to_json(self) -> dict[str, Any]:
        """For verify.json."""
        return {"passed": self.passed, "checked": self.checked, "failures": self.failures, "allowed": self.allowed}


def require(gates: Iterable[Gate]) -> None:
    """Raises VerificationError with what each failed gate found, and its remedy."""
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return
    lines = [f"verification failed: {', '.join(gate.name for gate in failed)}"]
    for gate in failed:
        lines += [f"  - {gate.name}: {line}" for line in gate.failures[:SHOWN]]
        more = len(gate.failures) - SHOWN
        lines += [f"  - {gate.name}: and {more} more"] if more > 0 else []
        lines += [f"  - {gate.name}: nothing could be checked"] if not gate.checked else []
    raise VerificationError("\n".join(lines), remedy="; ".join(REMEDIES[gate.name] for gate in failed))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON object, for people to read too."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

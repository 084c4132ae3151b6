"""What a check of a dataset found: problems that stop a run, warnings that don't. Each names file, line and field."""

from __future__ import annotations

KEPT = 1000  # of each kind; the rest is counted


class Findings:
    """Problems and warnings about one file.

    Args:
        name: how the user calls the file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.problem_count = 0
        self.warning_count = 0
        self._unknown: dict[str, list[int]] = {}  # key -> [rows, first line]

    def problem(self, text: str, *, line: int | None = None, field: str = "") -> None:
        """Something that must be mended."""
        self.problem_count += 1
        if len(self.problems) < KEPT:
            self.problems.append(self._describe(text, line, field))

    def warn(self, text: str, *, line: int | None = None, field: str = "") -> None:
        """Something that the user should know."""
        self.warning_count += 1
        if len(self.warnings) < KEPT:
            self.warnings.append(self._describe(text, line, field))

    def unknown_key(self, field: str, line: int) -> None:
        """A key that means nothing here; rows are counted by key, since whole files tend to have it."""
        if field not in self._unknown:
            self.warning_count += 1
        if len(self._unknown) < KEPT:
            self._unknown.setdefault(field, [0, line])[0] += 1

    def all_problems(self) -> list[str]:
        """One line for each problem, with a last one that counts those not kept."""
        return self.problems + _rest(self.problem_count)

    def all_warnings(self) -> list[str]:
        """One line for each warning, with a last one that counts those not kept."""
        unknown = [
            self._describe(f"unknown key, ignored in {count} row{'s' if count > 1 else ''}", line, field)
            for field, (count, line) in self._unknown.items()
        ]
        return unknown + self.warnings + _rest(self.warning_count - len(unknown))

    def _describe(self, text: str, line: int | None, field: str) -> str:
        where = self.name if line is None else f"{self.name}: line {line}"
        return ": ".join(part for part in (where, field, text) if part)


def _rest(count: int) -> list[str]:
    return [f"... and {count - KEPT} more"] if count > KEPT else []


def show(value: object, limit: int = 60) -> str:
    """A value as it is named in a message: its repr, cut short."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def kind(value: object) -> str:
    """A JSON value's kind in a person's words."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string",
             list: "a list", dict: "an object"}  # fmt: skip
    return names.get(type(value), type(value).__name__)

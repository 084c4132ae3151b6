"""Watching a chain: a live line on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.markup import escape

from halops.units import human_bytes, human_seconds

PLAIN_SECONDS = 10.0  # between two progress lines of one stage, where the output isn't a terminal


class ChainView:
    """Shows a backend's events. Use as a context manager and pass `on_event` as the listener."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._began: dict[str, float] = {}
        self._printed: dict[str, float] = {}
        self._status: Any = None

    def __enter__(self) -> ChainView:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def on_event(self, stage: str, event: dict[str, Any]) -> None:
        """Show one event of `halops.backends.base.Listener`."""
        getattr(self, f"_{event['kind']}")(stage, event)

    def _started(self, stage: str, event: dict[str, Any]) -> None:
        self._began.setdefault(stage, time.monotonic())
        if self._status:
            self._status.update(f"[bold]{stage}[/]")

    def _skipped(self, stage: str, event: dict[str, Any]) -> None:
        self._console.print(f"[green]✓[/] {stage:8} done before")

    def _succeeded(self, stage: str, event: dict[str, Any]) -> None:
        seconds = event.get("seconds") or time.monotonic() - self._began.get(stage, time.monotonic())
        self._console.print(f"[green]✓[/] {stage:8} {human_seconds(seconds)}")

    def _retry(self, stage: str, event: dict[str, Any]) -> None:
        self._console.print(
            f"[yellow]![/] {stage:8} ended with {event['exit_code']}; trying again in {event['seconds']:.0f} s"
        )

    def _waiting(self, stage: str, event: dict[str, Any]) -> None:
        self._console.print(f"[yellow]![/] {stage:8} {escape(event['message'])}")

    def _progress(self, stage: str, event: dict[str, Any]) -> None:
        line = describe_progress(event)
        if self._status:
            self._status.update(f"[bold]{stage}[/] {line}")
            return
        clock = time.monotonic()
        last = event.get("done") is not None and event["done"] == event.get("total")
        if last or clock - self._printed.get(stage, 0) >= PLAIN_SECONDS:
            self._printed[stage] = clock
            self._console.print(f"  {stage:8} {line}", markup=False)


def describe_progress(event: dict[str, Any]) -> str:
    """One line for a progress event: what, how far, the rate that matters, time left."""
    parts = [str(event["message"])]
    if event.get("total"):
        parts.append(_amount(event["done"], event["total"], event.get("unit", "")))
    metrics = event.get("metrics", {})
    if isinstance(metrics.get("loss"), float):
        parts.append(f"loss {metrics['loss']:.3f}")
    if metrics.get("tokens_per_second"):
        parts.append(f"{metrics['tokens_per_second']:.0f} tok/s")
    if event.get("eta_seconds"):
        parts.append(f"{human_seconds(event['eta_seconds'])} left")
    return " · ".join(parts)


def _amount(done: float, total: float, unit: str) -> str:
    if unit == "bytes":
        return f"{human_bytes(done)} of {human_bytes(total)}"
    if unit == "%":
        return f"{done:g} %"
    return f"{done:g}/{total:g} {unit}".rstrip()

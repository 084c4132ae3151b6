"""What a report says first: one or two sentences, the same on the page and on the terminal."""

from __future__ import annotations

from halops.report.model import ReportData, Verdict


def headline(data: ReportData) -> str:
    """How it went, in a sentence or two."""
    if data.verdict is Verdict.FAILED:
        failed = next((stage for stage in data.stages if stage.state == "failed"), None)
        if failed:
            reason = (failed.diagnosis or "").split("\n")[0]
            return f"Stopped in {failed.name}{': ' + reason if reason else '.'}"
        return "Stopped."
    if data.verdict is Verdict.UNFINISHED:
        running = [stage.name for stage in data.stages if stage.state == "running"]
        waiting = [stage.name for stage in data.stages if stage.state != "succeeded"]
        return f"Still running: {running[0]}." if running else f"Not finished: {', '.join(waiting)} to go."
    return " ".join(text for text in (loss_sentence(data), probe_sentence(data)) if text) or "Every check passed."


def loss_sentence(data: ReportData) -> str:
    """What training did to the held-out loss."""
    base, tuned = data.number("train", "heldout_loss_base"), data.number("train", "heldout_loss")
    if base is None or tuned is None or base <= 0:
        return ""
    moved = "fell" if tuned < base else "rose"
    return f"Held-out loss {moved} from {base:.2f} to {tuned:.2f}: {tuned / base:.0%} of the base's."


def probe_scores(data: ReportData) -> tuple[int, int | None, int] | None:
    """(right answers of the tuned model, of the base if it was asked, probes), or None without probes."""
    total = len(data.probes)
    if not total:
        return None
    tuned = sum(probe.tuned_ok is True for probe in data.probes)
    asked = any(probe.base_ok is not None for probe in data.probes)
    return tuned, sum(probe.base_ok is True for probe in data.probes) if asked else None, total


def probe_sentence(data: ReportData) -> str:
    """How many probes each model answers."""
    scores = probe_scores(data)
    if scores is None:
        return ""
    tuned, base, total = scores
    beside = "" if base is None else f"; the base answers {base or 'none'}"
    return f"It answers {tuned} of {total} probes{beside}."


def loss_ratio(data: ReportData) -> float | None:
    """Held-out loss after training over that of the base."""
    base, tuned = data.number("train", "heldout_loss_base"), data.number("train", "heldout_loss")
    return tuned / base if base and tuned is not None else None

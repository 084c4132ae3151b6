"""The site's webhook: one JSON document when a run is done, failed or stuck. It never stops a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from halops.artifact import now

KIND = "halops/event/v1"
TRIES = 3
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0


def document(run_id: str, state: str, stage: str, diagnosis: str, store: str, at: str | None = None) -> dict[str, Any]:
    """What is sent. The store's address goes without what could be a secret in it: user, password, query.

    Args:
        state: `succeeded`, `failed`, `cancelled` or `stuck`.
        stage: where it stands; empty when the run is done.
        diagnosis: in a person's words; empty when all is well.
        at: RFC 3339; now, if not given.
    """
    return {
        "kind": KIND,
        "run_id": run_id,
        "state": state,
        "stage": stage,
        "diagnosis": diagnosis,
        "store": _bare(store),
        "time": at or now(),
    }


def post(url: str, body: Mapping[str, Any], say: Callable[[str], None] = lambda text: None) -> bool:
    """Send a document; False if it could not be delivered, and `say` is told why. Raises nothing.

    A refusal (4xx) is final; silence and the server's own faults (5xx) are tried again.
    """
    import httpx

    problem = ""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_SECONDS * 2 ** (number - 1))
        try:
            answer = httpx.post(url, json=dict(body), timeout=TIMEOUT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            problem = type(error).__name__
            continue
        if answer.status_code < 300:
            return True
        problem = f"HTTP {answer.status_code}"
        if answer.status_code < 500:
            break
    say(f"webhook at {_host(url)}: not delivered ({problem})")
    return False


def _host(url: str) -> str:
    """What may be logged of the address: its path is often a secret."""
    try:
        return urlsplit(url).hostname or "?"
    except ValueError:
        return "?"


def _bare(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

"""Sixteen clients that ask without a pause, each on its own connection that it keeps, until a file `stop` appears.

    python -m tests.cluster.asking HOST KEY FOLDER

Writes FOLDER/asked: JSON, how many answers came, and what came instead of others. Nothing is asked twice.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path

CLIENTS = 16


class Count:
    """Answers and failures, of all clients."""

    def __init__(self) -> None:
        self.good, self.bad = 0, list[str]()
        self.lock = threading.Lock()

    def add(self, fault: str | None) -> None:
        with self.lock:
            self.good += fault is None
            self.bad += [fault] if fault else []

    def text(self) -> str:
        with self.lock:
            return json.dumps([self.good, self.bad])


def ask(connection: http.client.HTTPConnection, key: str, number: int) -> str | None:
    """One request; what was wrong with its answer."""
    body = json.dumps({"messages": [{"role": "user", "content": f"ping {number}"}], "max_tokens": 4})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read()
    except Exception as error:
        connection.close()
        return f"{time.strftime('%H:%M:%S')} {error!r}"
    return None if answer.status == 200 and b'"chat.completion"' in text else f"{answer.status} {text[:200]!r}"


def client(host: str, key: str, stop: Path, count: Count) -> None:
    """Ask until told to stop."""
    connection = http.client.HTTPConnection(host, timeout=120)
    number = 0
    while not stop.exists():
        count.add(ask(connection, key, number))
        number += 1


def main(host: str, key: str, folder: Path) -> None:
    count = Count()
    threads = [threading.Thread(target=client, args=(host, key, folder / "stop", count)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(1)
        partial = folder / "asked.part"
        partial.write_text(count.text())
        partial.rename(folder / "asked")
    (folder / "asked").write_text(count.text())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

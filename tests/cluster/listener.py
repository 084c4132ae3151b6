"""A web server on the control plane's address, which keeps what is posted to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.handle import Cluster
from tests.cluster.pods import eventually

PORT = 443  # the one that the coordinator's NetworkPolicy leaves open for a webhook
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204); self.end_headers()
        with open(sys.argv[3], "ab") as out: out.write(body + b"\\n")
    def log_message(self, *words): pass
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@dataclass
class Listener:
    """Where it listens, and what it heard."""

    url: str
    file: Path

    def heard(self) -> list[Any]:
        """The documents, oldest first."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@contextlib.contextmanager
def listening(cluster: Cluster, folder: Path) -> Iterator[Listener]:
    """A listener beside the cluster's store."""
    assert cluster.store
    address = str(urlsplit(cluster.store.endpoint).hostname)
    listener = Listener(f"http://{address}:{PORT}/halops", folder / "heard.jsonl")
    words = [*cluster.prefix, sys.executable, "-c", SERVER, address, str(PORT), str(listener.file)]
    with subprocess.Popen(words) as server:
        try:
            probe = f"import socket; socket.create_connection(('{address}', {PORT}), 1)"
            eventually(lambda: cluster.run([sys.executable, "-c", probe], check=False).returncode == 0)
            yield listener
        finally:
            server.kill()

"""A hub on loopback: the listing, the resolve addresses, a content server on another port, and faults on demand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """Models by name, and what goes wrong.

    Args:
        cuts: path -> lengths after which a transfer breaks off, one a request.
        busy: how many requests are answered with 429 first; `retry_after` goes with them.
        wrong: paths whose bytes are not those that were listed.
        ignore_range: the content server sends whole files whatever is asked.
        token: what a reader of a private model must send.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    cuts: dict[str, list[int]] = field(default_factory=dict)
    busy: int = 0
    retry_after: str = "0"
    wrong: set[str] = field(default_factory=set)
    ignore_range: bool = False
    claims: dict[str, int] = field(default_factory=dict)  # sizes in the listing that aren't so
    trickle: bool = False  # the content server sends a little every tenth of a second, for ten seconds
    bare: bool = False  # the listing has names alone, no sizes or digests
    endpoint: str = ""
    cdn: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # server, path, headers
    sent: Counter[str] = field(default_factory=Counter)  # bytes of each file

    def add_folder(self, name: str, folder: Path) -> None:
        """Serve a model's folder."""
        self.models[name] = {path.name: path.read_bytes() for path in folder.iterdir()}

    def paths(self, server: str) -> list[str]:
        """What was asked of `hub` or `cdn`."""
        return [path for name, path, _ in self.requests if name == server]


def listed(path: str, data: bytes, bare: bool, size: int | None = None) -> dict[str, Any]:
    """A file as the hub's listing has it: large ones by SHA-256, small ones by Git's blob id."""
    if bare:
        return {"rfilename": path}
    size = len(data) if size is None else size
    item: dict[str, Any] = {"rfilename": path, "size": size, "blobId": git_blob(data)}
    if path.endswith(".safetensors"):
        item["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
    return item


def git_blob(data: bytes) -> str:
    """Git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """What both servers share."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    server_kind = ""

    def do_GET(self) -> None:
        self.hub.requests.append((self.server_kind, self.path, dict(self.headers)))
        self.answer(urlsplit(self.path).path, parse_qs(urlsplit(self.path).query))

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        raise NotImplementedError  # each kind of server answers its own paths

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class HubHandler(Handler):
    """/api/models/NAME/revision/REV and /NAME/resolve/COMMIT/FILE."""

    server_kind = "hub"

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        hub = self.hub
        if hub.busy > 0:
            hub.busy -= 1
            return self.say(429, Retry_After=hub.retry_after)
        api = path.startswith("/api/models/")
        name, _, rest = path.removeprefix("/api/models/").lstrip("/").partition("/revision/" if api else "/resolve/")
        name = unquote(name)
        known = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if name in hub.gated and not known:
            return self.say(403, X_Error_Code="GatedRepo")
        if name not in hub.models or (name in hub.private and not known):
            return self.say(404 if known else 401, X_Error_Code="RepoNotFound")
        files = hub.models[name]
        if api:
            if unquote(rest) not in ("main", "v1/tag", COMMIT):
                return self.say(404, X_Error_Code="RevisionNotFound")
            siblings = [listed(file, data, hub.bare, hub.claims.get(file)) for file, data in files.items()]
            return self.say(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        revision, _, file = rest.partition("/")
        if revision != COMMIT or unquote(file) not in files:
            return self.say(404, X_Error_Code="EntryNotFound")
        return self.resolve(name, unquote(file), files[unquote(file)])

    def resolve(self, name: str, file: str, data: bytes) -> None:
        """Small files are answered here, large ones by the content server."""
        if not file.endswith(".safetensors"):
            body = b"x" + data[1:] if file in self.hub.wrong else data
            return self.say(200, body, ETag=f'"{git_blob(data)}"')
        digest = hashlib.sha256(data).hexdigest()
        return self.say(
            302, Location=f"{self.hub.cdn}/{name}/{file}?signature=x", X_Linked_Etag=f'"{digest}"',
            X_Linked_Size=str(len(data)), X_Repo_Commit=COMMIT, ETag='"of the redirect"',
        )  # fmt: skip


class CdnHandler(Handler):
    """/NAME/FILE, by ranges."""

    server_kind = "cdn"

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        name, _, file = path.lstrip("/").rpartition("/")
        data = self.hub.models[name][file]
        if file in self.hub.wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = 0
        asked = self.headers.get("Range")
        if asked and not self.hub.ignore_range:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.say(416, Content_Range=f"bytes */{len(data)}")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cuts = self.hub.cuts.get(file, [])
        end = start + cuts.pop(0) if cuts else len(data)
        if self.hub.trickle:
            return self.drip(data[start:])
        self.wfile.write(data[start:end])
        self.hub.sent[file] += end - start
        if end < len(data):
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)
        return None

    def drip(self, data: bytes) -> None:
        step = -(-len(data) // 100)
        with contextlib.suppress(OSError):
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                time.sleep(0.1)


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """Start both servers; they stop at the end."""
    hub = HubServer()
    with contextlib.ExitStack() as stack:
        for kind in (HubHandler, CdnHandler):
            handler = type(kind.__name__, (kind,), {"hub": hub})
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.shutdown)
            setattr(hub, "endpoint" if kind is HubHandler else "cdn", f"http://127.0.0.1:{server.server_port}")
        yield hub

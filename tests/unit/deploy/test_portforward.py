"""The loopback end of a port-forward, before a socket instead of a pod's."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from halops.backends.kube.portforward import forwarded


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_many_connections_at_once_and_large_bodies() -> None:
    bodies = [bytes([number]) * 300_000 for number in range(16)]
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = ("127.0.0.1", server.server_port)
        with forwarded(lambda: socket.create_connection(address)) as url, ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda body: httpx.post(url, content=body).content, bodies)) == bodies
        server.shutdown()


def test_a_pod_that_is_gone_ends_the_connection() -> None:
    def dial() -> socket.socket:
        raise OSError("no such pod")

    with forwarded(dial) as url, pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        httpx.get(url, timeout=5)

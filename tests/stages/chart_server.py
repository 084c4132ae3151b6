"""llama-server as the chart starts it, on this machine: its arguments, its scripts."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from halops.llamacpp.ports import free_port
from halops.llamacpp.toolchain import Toolchain
from halops.names import THREADS
from tests.helm import CHART, DIGEST, rendered, server_of

KEY = "sk-real"


@dataclass
class Server:
    """A server as the chart starts it."""

    process: subprocess.Popen[bytes]
    port: int
    environment: dict[str, str]

    def script(self, name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", str(CHART / "files" / name), *arguments]
        environment = self.environment | settings
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def get(self, path: str, body: dict[str, object] | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, dict(answer.headers), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read().decode()


@contextmanager
def chart_server(llama_cpp: Toolchain, folder: Path, model: Path) -> Iterator[Server]:
    """It, on a GGUF file, once its startup probe passes."""
    port = free_port("127.0.0.1")
    (folder / "keys").write_text(f"{KEY}\n")
    here = {
        f"/models/{DIGEST}.gguf": str(model), "8080": str(port), "0.0.0.0": "127.0.0.1",
        "/etc/halops/keys/keys": str(folder / "keys"), "/run/halops/server.log": str(folder / "log"),
    }  # fmt: skip
    settings = {"gpu": {"count": 0}, "server": {"threads": 1, "parallel": 2, "chatTemplate": "model"}}
    arguments = [here.get(word, word) for word in server_of(rendered(settings))["args"]]
    environment = {
        "PATH": os.environ["PATH"], "HALOPS_PORT": str(port), "HALOPS_KEYS": str(folder / "keys"),
        "HALOPS_LOG": str(folder / "log"), "HALOPS_LAYERS": "0", **THREADS,
    }  # fmt: skip
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([llama_cpp.server, *arguments], env=environment, stdout=out, stderr=out)
    made = Server(process, port, environment)
    try:
        deadline = time.monotonic() + 60
        while (probe := made.script("startup.sh")).returncode:
            assert process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline, probe.stdout
            time.sleep(0.2)
        yield made
    finally:
        process.terminate()
        process.wait(30)

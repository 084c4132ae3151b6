"""llama-server: its command line from the serving section, and a process that is ready, watched and ended."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from halops.errors import BusyError, HalopsError, HostError, IntegrityError, Interrupted, NotFoundError, StageError
from halops.llamacpp import process
from halops.llamacpp.gguf_file import CHAT_TEMPLATE, read_metadata
from halops.llamacpp.ports import free_port, port_busy, require_free
from halops.llamacpp.toolchain import Toolchain
from halops.sections import Serving

READY_SECONDS = 600.0  # a 7B's F16 file from a slow disk
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy can't reach our loopback
OUR_MARK = "namespace(tools=false)"
CHATML_MARK = "<|im_start|>"
# What its log says when the file is at fault, not the machine.
_DAMAGED = ("invalid magic", "corrupted or incomplete", "failed to read", "invalid GGUF", "failed to load GGUF",
            "key not found in model", "missing tensor", "wrong number of tensors", "gguf_init_from_file")  # fmt: skip

_NO_MEMORY = ("out of memory", "failed to allocate", "unable to allocate", "cannot allocate memory", "bad_alloc")


def server_argv(
    tools: Toolchain,
    model: Path,
    serving: Serving,
    *,
    cores: int,
    alias: str = "halops",
    port: int | None = None,
    host: str | None = None,
    lora: Path | None = None,
    api_key_file: Path | None = None,
    own_template: bool = False,
) -> list[str]:
    """The command line, in today's spelling. Nothing that changes an answer is left to a default or the environment.

    Args:
        model: the GGUF file.
        serving: the profile's section. `ctx_size` is what one conversation has, so the server gets that times
            `parallel`, which it divides among its slots.
        cores: what the machine has; threads are no more than that.
        port, host: instead of the section's.
        lora: a GGUF LoRA on top of the model.
        api_key_file: keys that clients must send, one a line.
        own_template: the file's own template is used even where the section says chatml: that of another family, or
            ours that knows tools, which llama.cpp's ChatML doesn't; without tools ours gives the same ids.
    """
    argv = [str(tools.server), "--model", str(model), "--alias", alias]
    argv += ["--host", host or serving.host, "--port", str(port or serving.port)]
    argv += ["--ctx-size", str(serving.ctx_size * serving.parallel), "--parallel", str(serving.parallel)]
    argv += ["--n-gpu-layers", str(serving.n_gpu_layers), "--threads", str(max(1, min(serving.threads, cores)))]
    argv += ["--flash-attn", "on" if serving.flash_attn else "off"]
    argv += ["--cont-batching" if serving.cont_batching else "--no-cont-batching"]
    argv += ["--jinja"]
    argv += ["--chat-template", "chatml"] if serving.chat_template == "chatml" and not own_template else []
    argv += ["--lora", str(lora)] if lora else []
    argv += ["--api-key-file", str(api_key_file)] if api_key_file else []
    # --fit may shrink the context without a word; the prompt cache in RAM can hand one user's text to another; the
    # rest is open by default and nobody here needs it.
    return [*argv, "--fit", "off", "--offline", "--cache-ram", "0", "--no-cache-idle-slots", "--no-slots", "--no-ui",
            "--cors-origins", "localhost"]  # fmt: skip


def has_own_template(model: Path) -> bool:
    """Whether a GGUF file must be served with the template that it carries: one of another family than ChatML, or one
    that HALops wrote for chats with tools (`halops.chat_template`)."""
    try:
        template = str(read_metadata(model).get(CHAT_TEMPLATE) or "")
    except (IntegrityError, NotFoundError):
        return False  # the server will say what is wrong with the file
    return bool(template) and (OUR_MARK in template or CHATML_MARK not in template)


class LlamaServer:
    """One llama-server, ready when the `with` block begins and gone when it ends, however that ends.

    Args:
        port: None takes the section's, 0 any free one.
        log: gets the server's output.
        extra: further arguments, which change no answer.
        stop: when it is set the server is ended: while the model loads, or in the middle of an answer.

    Raises, when entered:
        NotFoundError: no such model file.
        BusyError: somebody else listens on the port.
        IntegrityError: the file is damaged, or no GGUF.
        HostError: it can't run here, or memory is short. With --fit off no layer is left out in silence.
        StageError: it ended for another reason; with the end of its log.
    """

    def __init__(
        self,
        tools: Toolchain,
        model: Path,
        serving: Serving,
        *,
        log: Path,
        port: int | None = None,
        host: str | None = None,
        alias: str = "halops",
        lora: Path | None = None,
        api_key_file: Path | None = None,
        extra: tuple[str, ...] = (),
        stop: threading.Event | None = None,
    ) -> None:
        self.model, self.log = model, log
        self.host = host or serving.host
        self._any_port = port == 0
        self.port = port if port is not None else serving.port
        self._serving, self._stop = serving, stop
        self._child: subprocess.Popen[bytes] | None = None

        def argv() -> list[str]:
            common = server_argv(
                tools, model, serving, cores=process.usable_cores(), alias=alias,
                port=self.port, host=self.host, lora=lora, api_key_file=api_key_file,
                own_template=has_own_template(model),
            )  # fmt: skip
            return [*common, *extra]

        self._argv = argv

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id, while it runs."""
        return self._child.pid if self._child else None

    def __enter__(self) -> LlamaServer:
        if not self.model.is_file():
            raise NotFoundError("no such GGUF file", where=str(self.model))
        attempts = 3 if self._any_port else 1
        for attempt in range(attempts):
            if self._any_port:
                self.port = free_port(self.host)
            require_free(self.host, self.port)
            try:
                self._start()
                return self
            except BusyError:  # somebody took the free port between our look and the server's
                if attempt == attempts - 1:
                    raise
        raise AssertionError("unreachable")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the server. More than once is no error."""
        if self._child:
            process.end(self._child)

    def wait(self) -> int:
        """Block until the server ends by itself; its exit code."""
        assert self._child
        return self._child.wait()

    def check(self) -> None:
        """Raises StageError if the server ended since it was ready."""
        if self._child and self._child.poll() is not None:
            raise self._ended(self._child.returncode)

    def _start(self) -> None:
        with self.log.open("wb") as stream:
            try:
                self._child = subprocess.Popen(
                    self._argv(), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                    env=process.offline_environment(), start_new_session=True, preexec_fn=process.child_setup(),
                )  # fmt: skip
            except OSError as error:
                raise HostError(f"can't run llama-server: {error.strerror}", where=self._argv()[0]) from error
        if self._stop is not None:
            process.end_when(self._stop, self._child)
        try:
            self._until_ready(self._child)
        except BaseException:
            self.close()
            raise

    def _until_ready(self, child: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + READY_SECONDS
        while not self._healthy():
            if self._stop is not None and self._stop.is_set():
                raise Interrupted("stopped while llama-server loaded the model")
            if child.poll() is not None:
                raise self._ended(child.returncode)
            if time.monotonic() > until:
                raise StageError(f"llama-server isn't ready after {READY_SECONDS:.0f} s", where=str(self.model))
            time.sleep(0.05)
        if child.poll() is not None:  # then it was another server that answered
            raise self._ended(child.returncode)

    def _healthy(self) -> bool:
        try:
            with _direct.open(f"{self.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _ended(self, code: int) -> HalopsError:
        text = self.log.read_text(errors="replace")
        if "couldn't bind" in text or "address already in use" in text.lower():
            return port_busy(self.host, self.port)
        if any(sign in text for sign in _DAMAGED):
            remedy = "make it again: halops convert"
            return IntegrityError(f"llama-server can't load it: {_reason(text)}", where=str(self.model), remedy=remedy)
        if code == -signal.SIGILL:
            remedy = "build llama.cpp on this machine: python -m halops.llamacpp build"
            return HostError("this processor can't run llama-server: illegal instruction", remedy=remedy)
        if code == -signal.SIGKILL or any(sign in text for sign in _NO_MEMORY):
            remedy = "set a smaller serving.file, serving.ctx_size, serving.parallel or serving.n_gpu_layers"
            return HostError("llama-server ran out of memory", where=str(self.model), remedy=remedy)
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        return StageError(f"llama-server ended with {ending}:\n{process.tail(self.log)}", where=str(self.model))


def _reason(log: str) -> str:
    """The first error in a server's log, without its time, level and function."""
    found = re.search(r"^\S+ E (.*)$", log, re.MULTILINE)
    return found[1].removeprefix("llama_model_load: error loading model: ") if found else "see its log"

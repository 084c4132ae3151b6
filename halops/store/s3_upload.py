"""Uploads whose stored bytes are proven: each part carries its SHA-256, and the whole is compared at the end.

The hash of every part goes in a request header, not in a trailer behind the body: some servers store trailers as if
they were part of the object. An upload that fails for whatever reason is aborted, and leaves nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import threading
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.utils import ReadFileChunk  # type: ignore[import-untyped]  # ships no types

from halops.disk import OnBytes
from halops.errors import IntegrityError, Interrupted

PART_BYTES = 64 << 20
WORKERS = 16
MOST_PARTS = 10_000  # S3's limit
METADATA = "halops-sha256"

log = logging.getLogger(__name__)


class Upload:
    """One file on its way to one object.

    Args:
        client: a boto3 S3 client.
        target: Bucket and Key.
        checksums: whether parts carry their SHA-256 (not for servers that refuse such headers).
    """

    def __init__(self, client: Any, target: dict[str, str], path: Path, sha256: str, *, checksums: bool) -> None:
        self._client, self._target, self._path, self._sha256 = client, target, path, sha256
        self._checksums = checksums
        self._size = path.stat().st_size
        self._stop = threading.Event()

    def run(self, on_bytes: OnBytes | None) -> tuple[int, str]:
        """Send the file; its size, and the checksum that S3 should now have for it (base64).

        Raises IntegrityError if the file isn't what its SHA-256 promised.
        """
        if self._size < PART_BYTES:
            return self._size, self._whole(on_bytes)
        return self._size, self._in_parts(on_bytes)

    def _whole(self, on_bytes: OnBytes | None) -> str:
        with self._path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != self._sha256:
                raise self._changed()
        checksum = base64.b64encode(bytes.fromhex(self._sha256)).decode()
        with self._body(0, self._size) as body:
            self._client.put_object(
                **self._target, Body=body, Metadata={METADATA: self._sha256}, **self._header(checksum)
            )
        if on_bytes:
            on_bytes(self._size)
        return checksum

    def _in_parts(self, on_bytes: OnBytes | None) -> str:
        more = {"ChecksumAlgorithm": "SHA256"} if self._checksums else {}
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="upload")
        # Begun in a thread, which no signal handler's exception reaches: the upload's ID is known, whatever ends this.
        begun = pool.submit(
            self._client.create_multipart_upload, **self._target, Metadata={METADATA: self._sha256}, **more
        )
        try:
            upload = {**self._target, "UploadId": begun.result()["UploadId"]}
            parts, checksum = self._send_parts(pool, upload, on_bytes)
            self._complete(upload, parts)
        except BaseException:  # Ctrl-C and a signal handler's exception too
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)  # a part that ends after the abort would stay for ever
            self._abort(begun)
            raise
        pool.shutdown()
        return checksum

    def _abort(self, begun: Future[dict[str, Any]]) -> None:
        with contextlib.suppress(CancelledError, BotoCoreError, ClientError, OSError):
            self._client.abort_multipart_upload(**self._target, UploadId=begun.result()["UploadId"])

    def _send_parts(
        self, pool: ThreadPoolExecutor, upload: dict[str, str], on_bytes: OnBytes | None
    ) -> tuple[list[dict[str, Any]], str]:
        """All parts, sent while the file is hashed; and the composite checksum, SHA-256 over those of the parts."""
        part_bytes = max(PART_BYTES, -(-self._size // MOST_PARTS))
        whole, composite = hashlib.sha256(), hashlib.sha256()
        sending: deque[Future[dict[str, Any]]] = deque()
        parts: list[dict[str, Any]] = []
        with self._path.open("rb") as stream:
            for number, offset in enumerate(range(0, self._size, part_bytes), start=1):
                length = min(part_bytes, self._size - offset)
                digest = _hash_range(stream, length, whole)
                composite.update(digest)
                if len(sending) >= 2 * WORKERS:  # so that a failure is noticed early
                    parts.append(sending.popleft().result())
                checksum = base64.b64encode(digest).decode()
                sending.append(pool.submit(self._send, upload, number, offset, length, checksum, on_bytes))
        parts += [future.result() for future in sending]
        if whole.hexdigest() != self._sha256:
            raise self._changed()
        return parts, f"{base64.b64encode(composite.digest()).decode()}-{len(parts)}"

    def _send(
        self, upload: dict[str, str], number: int, offset: int, length: int, checksum: str, on_bytes: OnBytes | None
    ) -> dict[str, Any]:
        header = self._header(checksum)
        with self._body(offset, length) as body:
            answer = self._client.upload_part(**upload, PartNumber=number, Body=body, **header)
        if on_bytes:
            on_bytes(length)
        return {"PartNumber": number, "ETag": answer["ETag"], **header}

    def _complete(self, upload: dict[str, str], parts: list[dict[str, Any]]) -> None:
        try:
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except ClientError as error:
            # A retry after a lost answer finds the upload gone, because the first try completed it.
            # Whether it did is proven by the check of the stored object that follows.
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise
            log.warning("%s: the upload is gone; checking what is stored", upload["Key"])

    def _body(self, offset: int, length: int) -> Any:
        return ReadFileChunk.from_filename(str(self._path), offset, length, callbacks=[self._check_stop])

    def _check_stop(self, bytes_transferred: int) -> None:
        if self._stop.is_set():
            raise Interrupted("the upload was stopped")

    def _header(self, checksum: str) -> dict[str, str]:
        return {"ChecksumSHA256": checksum} if self._checksums else {}

    def _changed(self) -> IntegrityError:
        return IntegrityError("the file changed while it was stored", where=str(self._path), remedy="store it again")


def _hash_range(stream: Any, length: int, whole: Any) -> bytes:
    """SHA-256 of the next `length` bytes, which also go into `whole`."""
    part = hashlib.sha256()
    while length > 0 and (block := stream.read(min(length, 1 << 20))):
        part.update(block)
        whole.update(block)
        length -= len(block)
    return part.digest()

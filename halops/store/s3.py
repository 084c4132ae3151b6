"""Artifacts in a bucket: `s3://bucket/prefix`, on AWS or on any server that speaks S3.

Endpoint and region come from the URI's query (`?endpoint=https://host:9000&region=...`), or else from the usual
settings of the AWS SDKs, as do credentials, AWS_CA_BUNDLE and AWS_REQUEST_CHECKSUM_CALCULATION (`when_required` for
servers that refuse checksum headers; what was stored is then read again to prove it).
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from botocore.exceptions import ClientError

from halops.disk import OnBytes, new_file
from halops.errors import IntegrityError, StoreUnavailable
from halops.store.keys import below, kept, safe_path
from halops.store.s3_client import CHECK_SECONDS, make_client
from halops.store.s3_delete import abort_uploads, delete_objects
from halops.store.s3_download import ranges
from halops.store.s3_errors import ABSENT, code_of, translated
from halops.store.s3_upload import METADATA, Upload

CHECKSUM_SETTING = "AWS_REQUEST_CHECKSUM_CALCULATION"
OVERTAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
UNCONDITIONAL = ("NotImplemented", "501")  # a server without conditional writes


class S3Store:
    """A store below one prefix of one bucket. Its client is made when it is first needed."""

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint: str | None = None, region: str | None = None
    ) -> None:
        self.bucket, self.prefix, self._endpoint, self._region = bucket, prefix.strip("/"), endpoint, region
        query = urlencode({name: value for name, value in (("endpoint", endpoint), ("region", region)) if value})
        self.uri = f"s3://{bucket}" + (f"/{quote(self.prefix)}" if self.prefix else "") + (f"?{query}" if query else "")
        self._client: Any = None
        self._lock = threading.Lock()

    def read(self, key: str) -> bytes | None:
        """The whole object, or None. Raises IntegrityError if it isn't what was noted with it."""
        return self._read(key)[0]

    def _read(self, key: str) -> tuple[bytes | None, str]:
        """The whole object with its ETag."""
        with translated(self._where(key)):
            try:
                answer = self.client.get_object(**self._target(key))
                body: bytes = answer["Body"].read()
            except ClientError as error:
                if code_of(error) in ABSENT:
                    return None, ""
                raise
        noted = answer.get("Metadata", {}).get(METADATA)
        if noted and hashlib.sha256(body).hexdigest() != noted:
            raise IntegrityError(
                "a stored object does not match its digest", where=self._where(key), remedy="run the same command again"
            )
        return body, answer["ETag"]

    def write(self, key: str, data: bytes) -> None:
        """Put a small object; S3 replaces atomically."""
        with translated(self._where(key)):
            self._put(key, data)

    def exchange(self, key: str, old: bytes | None, new: bytes) -> bool:
        """A conditional write, by the ETag of what is there."""
        found, tag = self._read(key)
        if found != old:
            return found == new  # ours, written by a request whose answer got lost
        condition = {"IfNoneMatch": "*"} if old is None else {"IfMatch": tag}
        with translated(self._where(key)):
            try:
                self._put(key, new, **condition)
            except ClientError as error:
                if code_of(error) in UNCONDITIONAL:
                    self._put(key, new)
                elif code_of(error) not in OVERTAKEN:
                    raise
                else:
                    return self._read(key)[0] == new
        return True

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        digest = hashlib.sha256(data)
        checksum = {"ChecksumSHA256": base64.b64encode(digest.digest()).decode()} if self._checksums else {}
        more = {"Metadata": {METADATA: digest.hexdigest()}, **checksum, **condition}
        self.client.put_object(**self._target(key), Body=data, **more)

    def upload(self, path: Path, key: str, sha256: str, on_bytes: OnBytes | None = None) -> None:
        """Store a file, then compare the stored object's size and checksum with what was sent."""
        with translated(self._where(key), path):
            upload = Upload(self.client, self._target(key), path, sha256, checksums=self._checksums)
            size, checksum = upload.run(on_bytes)
        self._prove(key, size, checksum, sha256)

    def _prove(self, key: str, size: int, checksum: str, sha256: str) -> None:
        head = self._head(key, ChecksumMode="ENABLED") or {}
        if head.get("ContentLength") != size:
            problem = f"{head.get('ContentLength', 'no')} bytes are stored, not {size}"
        elif stored := head.get("ChecksumSHA256"):
            problem = "" if stored == checksum else f"the store's checksum is {stored}, not {checksum}"
        else:  # a server that keeps no such checksums: read the object again
            problem = "" if self.digest(key) == sha256 else "other bytes are stored than were sent"
        if problem:
            self.delete(key)
            raise IntegrityError(
                problem, where=self._where(key), remedy="try AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
            )

    def download(self, key: str, path: Path, sha256: str | None, size: int, on_bytes: OnBytes | None = None) -> str:
        """Fetch in parallel ranges, written and hashed in order."""
        digest = hashlib.sha256()
        stored = self.size(key)
        if stored != size:
            what = "is missing" if stored is None else f"has {stored} bytes, not {size}"
            raise IntegrityError(f"a stored object {what}", where=self._where(key), remedy="have its stage run again")
        with translated(self._where(key), path), new_file(path) as stream:
            for data in self._ranges(key, size, on_bytes):
                digest.update(data)
                stream.write(data)
            found = digest.hexdigest()
            if sha256 and found != sha256:
                raise IntegrityError(
                    "the stored object does not match its digest",
                    where=self._where(key),
                    remedy=f"expected {sha256}, found {found}; delete the stage's manifest to have it made again",
                )
        return found

    def size(self, key: str) -> int | None:
        """Size in bytes, or None."""
        head = self._head(key)
        return None if head is None else int(head["ContentLength"])

    def digest(self, key: str, on_bytes: OnBytes | None = None) -> str | None:
        """SHA-256 of the stored bytes, read again; None if there is no such object."""
        size, digest = self.size(key), hashlib.sha256()
        if size is None:
            return None
        with translated(self._where(key)):
            for data in self._ranges(key, size, on_bytes):
                digest.update(data)
        return digest.hexdigest()

    def _ranges(self, key: str, size: int, on_bytes: OnBytes | None) -> Iterator[bytes]:
        for data in ranges(self.client, self._target(key), size):
            yield data
            if on_bytes:
                on_bytes(len(data))

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below `prefix`, sorted."""
        return iter(sorted(key for key in self._keys(prefix) if key != prefix))

    def _keys(self, prefix: str) -> Iterator[str]:
        top = self._full(prefix) if prefix else self._full("x")[:-1]
        skip = len(self._full("x")) - 1
        with translated(self._where(prefix)):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=top):
                keys = [item["Key"][skip:] for item in page.get("Contents", []) if not item["Key"].endswith("/")]
                yield from (key for key in keys if below(key, prefix))

    def delete(self, prefix: str, keep: Collection[str] = ()) -> None:
        """Remove `prefix`, everything below it and unfinished uploads there, but nothing below one of `keep`."""
        safe_path(prefix)
        doomed = [self._full(key) for key in self._keys(prefix) if not kept(key, keep)]
        skip = len(self._full("x")) - 1
        with translated(self._where(prefix)):
            if refused := delete_objects(self.client, self.bucket, doomed):
                raise StoreUnavailable(
                    f"can't delete an object: {refused}", where=self._where(prefix), remedy="grant s3:DeleteObject"
                )
            abort_uploads(
                self.client, self.bucket, self._full(prefix),
                lambda key: below(key[skip:], prefix) and not kept(key[skip:], keep),
            )  # fmt: skip

    def check(self, keys: Mapping[str, str] | None = None) -> None:
        """Write, read and remove a small object, without retries. Raises StoreUnavailable."""
        probe = S3Store(self.bucket, self.prefix, endpoint=self._endpoint, region=self._region)
        with translated(self._where("")):
            probe._client = make_client(self._endpoint, self._region, tries=1, read_seconds=CHECK_SECONDS, keys=keys)
        key = f".halops-check-{uuid.uuid4().hex}"
        probe.write(key, key.encode())
        if probe.read(key) != key.encode():
            raise StoreUnavailable("the store does not return what was written", where=self._where(key))
        probe.delete(key)

    @property
    def client(self) -> Any:
        """The boto3 client; one for all threads."""
        with self._lock:
            if self._client is None:
                self._client = make_client(self._endpoint, self._region)
            return self._client

    @property
    def _checksums(self) -> bool:
        with translated(self._where("")):
            # boto3 1.35 doesn't know the setting yet.
            wanted = getattr(self.client.meta.config, "request_checksum_calculation", os.environ.get(CHECKSUM_SETTING))
            return str(wanted).lower() != "when_required"

    def _head(self, key: str, **more: str) -> dict[str, Any] | None:
        with translated(self._where(key)):
            try:
                head: dict[str, Any] = self.client.head_object(**self._target(key), **more)
                return head
            except ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise

    def _full(self, key: str) -> str:
        safe_path(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._full(key)}

    def _where(self, key: str) -> str:
        given = self._endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        place = given or (self._client.meta.endpoint_url if self._client else "")
        path = "/".join(part for part in (self.bucket, self.prefix, key) if part)
        return f"s3://{path}" + (f" at {place}" if place else "")

"""Removing objects of a bucket, and what killed uploads left there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from botocore.exceptions import ClientError

from halops.store.s3_errors import code_of

BATCH = 1000  # keys a request, S3's limit
NO_UPLOADS = ("AccessDenied", "NotImplemented", "NoSuchUpload", "MethodNotAllowed")


def delete_objects(client: Any, bucket: str, keys: Sequence[str]) -> str:
    """Remove objects by their full keys. Returns what the server said of the first that it refused, else nothing."""
    for start in range(0, len(keys), BATCH):
        objects = [{"Key": key} for key in keys[start : start + BATCH]]
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", ()):
            return f"{error.get('Message') or error.get('Code')} ({error.get('Key')})"
    return ""


def abort_uploads(client: Any, bucket: str, prefix: str, doomed: Callable[[str], bool]) -> None:
    """Free the parts of unfinished uploads whose full key is `doomed`. They are invisible, but they are paid for."""
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
            if doomed(upload["Key"]):
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except ClientError as error:
        if code_of(error) not in NO_UPLOADS:
            raise

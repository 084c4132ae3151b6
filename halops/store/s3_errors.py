"""The one seam where botocore's exceptions become ours: what happened, which bucket and endpoint, the remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from botocore import exceptions as aws

from halops.disk import disk_error
from halops.errors import ConfigError, HalopsError, IntegrityError, StoreUnavailable

ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
CORRUPT = frozenset({
    "BadDigest", "InvalidDigest", "InvalidChecksum", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch",
    "InvalidPart", "EntityTooSmall", "IncompleteBody",
})  # fmt: skip

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_RIGHTS = "grant s3:GetObject, PutObject, DeleteObject, ListBucket and AbortMultipartUpload on the bucket"
_LATER = "try again later"

# error code of the server -> (what, remedy)
CODES: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("the bucket doesn't exist", "create it, or correct the store's URI"),
    "AccessDenied": ("the store refuses access", _RIGHTS),
    "AllAccessDisabled": ("the store refuses access", _RIGHTS),
    "403": ("the store refuses access", _RIGHTS),
    "XAdminUserNotFound": ("the store doesn't know this access key", _KEYS),
    "InvalidAccessKeyId": ("the store doesn't know this access key", _KEYS),
    "SignatureDoesNotMatch": ("the secret key doesn't fit the access key", _KEYS),
    "AuthorizationHeaderMalformed": ("the region is wrong", "set AWS_REGION, or ?region= in the store's URI"),
    "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION, or ?region= in the store's URI"),
    "IllegalLocationConstraintException": ("the region is wrong", "set AWS_REGION, or ?region= in the store's URI"),
    "301": ("the bucket is in another region", "set AWS_REGION, or ?region= in the store's URI"),
    "ExpiredToken": ("the credentials have expired", "get new ones, then run the same command again"),
    "InvalidToken": ("the session token isn't valid", "get new credentials; unset a left-over AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set the clock"),
    "InvalidBucketName": ("this can't be a bucket's name", "correct the store's URI"),
    "NoSuchUpload": ("the upload was aborted by somebody else", "run the same command again"),
    "PreconditionFailed": ("the object was replaced while it was read", "run the same command again"),
    "QuotaExceeded": ("the store is full", "free some space in it, or raise its quota"),
    "XMinioStorageFull": ("the store is full", "free some space in it"),
    "SlowDown": ("the store asks us to slow down", _LATER),
    "503": ("the store is not ready", _LATER),
    "InternalError": ("the store had an error of its own", _LATER),
}

# botocore exception -> (what, remedy); the first that fits counts
CLASSES: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.TokenRetrievalError,
         aws.SSOError, aws.MetadataRetrievalError),
        "no usable credentials for the store", _KEYS,
    ),
    ((aws.ProfileNotFound,), "no such AWS profile", "correct AWS_PROFILE"),
    (
        (aws.SSLError,), "the TLS connection failed",
        "for a private authority point AWS_CA_BUNDLE to the file of its certificate; is it http or https?",
    ),
    ((aws.ProxyConnectionError,), "the proxy can't be reached", "correct HTTPS_PROXY, or add the store to NO_PROXY"),
    (
        (aws.ConnectTimeoutError, aws.ReadTimeoutError), "the store doesn't answer",
        "check the endpoint, the network and its firewalls; in a cluster, the namespace's NetworkPolicies",
    ),
    (
        (aws.HTTPClientError, aws.ResponseStreamingError, aws.IncompleteReadError), "the connection broke", _LATER,
    ),
)  # fmt: skip
_NO_NAME = ("name or service not known", "getaddrinfo", "nameresolution", "nodename nor servname", "name resolution")


def code_of(error: aws.ClientError) -> str:
    """The server's error code; a HEAD's has only the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def translated(where: str, path: Path | None = None) -> Iterator[None]:
    """Raise every exception of boto3, botocore and urllib3 as one of ours.

    Args:
        where: bucket, key and endpoint, for the message.
        path: the local file that is read or written; an OSError is about it.
    """
    try:
        yield
    except HalopsError:
        raise
    except Exception as error:  # some of botocore's are OSErrors too: ask for them first
        if ours := translate(error, where):
            raise ours from error
        if isinstance(error, OSError):
            raise (disk_error(error, path) if path else _unreachable(error, where)) from error
        raise


def translate(error: Exception, where: str) -> HalopsError | None:
    """The error of ours that `error` means; None if it is none of the libraries'."""
    if isinstance(error, aws.ClientError):
        return _from_code(error, where)
    if isinstance(error, (aws.ParamValidationError, aws.InvalidRegionError, aws.InvalidS3AddressingStyleError)):
        return ConfigError(_short(error), where=where, remedy="correct the store's URI")
    if isinstance(error, (aws.FlexibleChecksumError, aws.ChecksumError)):
        return IntegrityError("the object does not match the store's own checksum", where=where)
    if isinstance(error, aws.EndpointConnectionError):
        return _unreachable(error, where)
    for classes, what, remedy in CLASSES:
        if isinstance(error, classes):
            return StoreUnavailable(f"{what}: {_short(error)}", where=where, remedy=remedy)
    if type(error).__module__.split(".")[0] in ("botocore", "boto3", "s3transfer", "urllib3"):
        return StoreUnavailable(f"the store can't be used: {_short(error)}", where=where, remedy="halops doctor")
    return None


def _from_code(error: aws.ClientError, where: str) -> HalopsError:
    code = code_of(error)
    message = str(error.response.get("Error", {}).get("Message", ""))
    if code in CORRUPT:
        return IntegrityError(
            f"the store received other bytes than were sent ({code})", where=where, remedy="store it again"
        )
    what, remedy = CODES.get(code, (f"the store refuses the request: {message}", "see the store's own log"))
    return StoreUnavailable(f"{what} ({code})", where=where, remedy=remedy)


def _unreachable(error: Exception, where: str) -> StoreUnavailable:
    text = f"{error} {error.__cause__ or ''} {getattr(error, 'kwargs', {}).get('error', '')}".lower()
    if any(part in text for part in _NO_NAME):
        return StoreUnavailable("the store's host name can't be resolved", where=where, remedy="correct the endpoint")
    if "refused" in text:
        return StoreUnavailable(
            "nothing listens at the store's address", where=where, remedy="start the store, or correct the endpoint"
        )
    return StoreUnavailable(
        f"the store can't be reached: {_short(error)}", where=where, remedy="check the endpoint and the network"
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

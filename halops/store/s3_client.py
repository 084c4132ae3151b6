"""The boto3 client: bounded waits, and addresses that every S3 server understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from halops import __version__
from halops.errors import ConfigError
from halops.store.s3_upload import WORKERS

CONNECT_SECONDS, READ_SECONDS, TRIES = 5, 60, 4
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CHECK_SECONDS = 10  # a store that says nothing for so long is not usable


def make_client(
    endpoint: str | None, region: str | None, *, tries: int = TRIES, read_seconds: float = READ_SECONDS,
    keys: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """A client with bounded waits; path-style addresses wherever the endpoint isn't AWS's own.

    Args:
        keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN, instead of this process's own.
    """
    given = {name.lower(): value for name, value in (keys or {}).items() if name in KEYS}
    session = boto3.session.Session(**given)
    # We hash what we read ourselves; the SDK would do it a second time, and hide the bytes where they differ.
    ours = {"response_checksum_validation": "when_required"}
    known = {name: value for name, value in ours.items() if name in Config.OPTION_DEFAULTS}  # not in boto3 1.35

    def make(style: str) -> Any:
        config = Config(
            max_pool_connections=4 * WORKERS,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            retries={"mode": "standard", "total_max_attempts": tries},
            s3={"addressing_style": style},
            tcp_keepalive=True,
            user_agent_extra=f"halops/{__version__}",
            **known,
        )
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)

    try:
        client = make("path" if endpoint else "auto")
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        return client if endpoint or host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else make("path")
    except ValueError as error:  # botocore's word for a malformed endpoint
        raise ConfigError(str(error), remedy="correct the store's endpoint") from error

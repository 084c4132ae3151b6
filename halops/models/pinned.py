"""Pins by content: `URI#sha256=DIGEST`."""

from __future__ import annotations

import re

from halops.errors import ConfigError

_PIN = re.compile(r"#sha256=([0-9a-f]{64})$")


def digest_of(uri: str) -> str | None:
    """The digest in a URI's fragment, if it has one. Raises ConfigError for another fragment."""
    if match := _PIN.search(uri):
        return match.group(1)
    if "://" in uri and "#" in uri:
        raise ConfigError("a model's #fragment is sha256= and 64 hex digits", where=uri, remedy="correct or drop it")
    return None


def without_digest(uri: str) -> str:
    """The URI less its pin."""
    digest_of(uri)
    return _PIN.sub("", uri)


def with_digest(uri: str, digest: str) -> str:
    """The URI with a pin."""
    return f"{uri}#sha256={digest}"

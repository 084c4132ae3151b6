"""Fixtures: a store on a real S3 server, over http and https. The server lives as long as the test session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def _s3_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3-http")) as server:
        yield server


@pytest.fixture(scope="session")
def _s3_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3-https"), tls=True) as server:
        yield server


@pytest.fixture
def s3_http(_s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A running S3 server over http; the environment has its credentials. Use a prefix of your own."""
    return _enter(_s3_http, monkeypatch)


@pytest.fixture
def s3_https(_s3_https: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The same over https; AWS_CA_BUNDLE names its certificate."""
    return _enter(_s3_https, monkeypatch)


def _enter(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server

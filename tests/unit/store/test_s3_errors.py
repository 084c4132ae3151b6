"""Every way in which an S3 store can be unusable, met for real where a loopback server can do it."""

from __future__ import annotations

import inspect
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore import exceptions as aws

from halops.artifact import sha256_file
from halops.errors import ConfigError, HalopsError, HostError, IntegrityError, StoreUnavailable
from halops.store import s3_client
from halops.store.s3_errors import CODES, translate, translated
from halops.store.table import open_store
from tests.s3_server import BUCKET, S3Server, free_port, s3_server

from .test_local import MOUNT, UNSHARE, can_mount, child


def complaint(uri: str, error: type[HalopsError] = StoreUnavailable) -> str:
    """What `check` says of the store, in at most ten seconds."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        open_store(uri).check()
    assert time.monotonic() - began < 10
    assert caught.value.remedy
    assert caught.value.where
    return str(caught.value)


def test_a_bucket_that_is_not_there(s3_http: S3Server) -> None:
    text = complaint(f"s3://nothere/x?endpoint={s3_http.endpoint}")
    assert "the bucket doesn't exist (NoSuchBucket)" in text
    assert "nothere" in text
    assert s3_http.endpoint in text
    with pytest.raises(StoreUnavailable, match="doesn't exist"):
        open_store(f"s3://nothere/x?endpoint={s3_http.endpoint}").read("manifest.json")
    with pytest.raises(StoreUnavailable, match="doesn't exist"):
        list(open_store(f"s3://nothere/x?endpoint={s3_http.endpoint}").list(""))


def test_a_name_that_can_be_no_bucket(s3_http: S3Server) -> None:
    complaint(f"s3://a_b%c/x?endpoint={s3_http.endpoint}", ConfigError)


def test_an_unknown_access_key(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    text = complaint(s3_http.uri("x"))
    assert "doesn't know this access key" in text
    assert "AWS_ACCESS_KEY_ID" in text


def test_a_wrong_secret(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    text = complaint(s3_http.uri("x"))
    assert "the secret key doesn't fit the access key (SignatureDoesNotMatch)" in text
    assert "wrong-secret" not in text


def test_no_credentials(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no usable credentials" in complaint(s3_http.uri("x"))


def test_half_of_the_credentials(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no usable credentials" in complaint(s3_http.uri("x"))


def test_an_unknown_profile(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "no such AWS profile" in complaint(s3_http.uri("x"))


def test_a_server_that_forbids_writing(tmp_path: Path, s3_http: S3Server) -> None:
    with s3_server(tmp_path, options=("--readonly",), bucket=False) as server:
        (server.folder / BUCKET).mkdir()
        text = complaint(server.uri("x"))
    assert "the store refuses access (AccessDenied)" in text
    assert "s3:GetObject" in text


def test_nothing_listens(s3_http: S3Server) -> None:
    port = free_port()
    text = complaint(f"s3://{BUCKET}/x?endpoint=http://127.0.0.1:{port}")
    assert "nothing listens" in text
    assert str(port) in text


def test_the_endpoint_of_the_environment(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "nothing listens" in complaint(f"s3://{BUCKET}/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_http.endpoint)
    open_store(f"s3://{BUCKET}/x").check()
    assert s3_client.make_client(None, None).meta.config.s3["addressing_style"] == "path"


def test_aws_itself_is_addressed_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    client = s3_client.make_client(None, "eu-north-1")
    assert client.meta.endpoint_url == "https://s3.eu-north-1.amazonaws.com"
    assert client.meta.config.s3["addressing_style"] == "auto"


def test_a_host_name_that_means_nothing(s3_http: S3Server) -> None:
    assert "can't be resolved" in complaint(f"s3://{BUCKET}/x?endpoint=http://store.invalid")


def test_a_malformed_endpoint(s3_http: S3Server) -> None:
    with pytest.raises(ConfigError, match="Invalid endpoint"):
        open_store(f"s3://{BUCKET}/x?endpoint=http://a_b c").check()


def test_a_certificate_of_an_unknown_authority(s3_https: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    text = complaint(s3_https.uri("x"))
    assert "TLS connection failed" in text
    assert "AWS_CA_BUNDLE" in text


def test_a_bundle_that_is_not_there(s3_https: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    assert "AWS_CA_BUNDLE to the file" in complaint(s3_https.uri("x"))


def test_https_spoken_to_http(s3_http: S3Server) -> None:
    assert "http or https" in complaint(s3_http.uri("x").replace("http://", "https://"))


@pytest.fixture
def page_server() -> Iterator[int]:
    """Something that speaks http, but not S3."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_pages, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]


def answer_pages(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>"
            )


def test_a_server_that_speaks_no_s3(s3_http: S3Server, page_server: int) -> None:
    complaint(f"s3://{BUCKET}/x?endpoint=http://127.0.0.1:{page_server}")


def test_a_server_that_hangs(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halops.store.s3.CHECK_SECONDS", 1)
    s3_http.process.send_signal(signal.SIGSTOP)
    try:
        assert "doesn't answer" in complaint(s3_http.uri("x"))
    finally:
        s3_http.process.send_signal(signal.SIGCONT)


def sample(kind: type[aws.BotoCoreError]) -> aws.BotoCoreError:
    """An instance with all the fields that its message wants."""
    if kind is aws.WaiterError:
        return aws.WaiterError(name="x", reason="x", last_response={})
    fields: dict[str, str] = {}
    while True:
        try:
            return kind(**fields)
        except KeyError as missing:
            fields[missing.args[0]] = "x"


def test_no_exception_of_botocore_escapes() -> None:
    kinds = [
        kind for _, kind in inspect.getmembers(aws, inspect.isclass)
        if issubclass(kind, aws.BotoCoreError) and kind.__module__ == aws.__name__
    ]  # fmt: skip
    assert len(kinds) > 80
    for kind in kinds:
        with pytest.raises(HalopsError) as caught, translated("s3://b/k"):
            raise sample(kind)
        assert isinstance(caught.value, (StoreUnavailable, ConfigError, IntegrityError)), kind


@pytest.mark.parametrize("code", [*CODES, "SomethingNew"])
def test_each_code_of_a_server_has_a_remedy(code: str) -> None:
    error = translate(aws.ClientError({"Error": {"Code": code, "Message": "m"}}, "PutObject"), "s3://b/k")
    assert isinstance(error, StoreUnavailable)
    assert error.remedy


def test_a_bad_digest_is_corruption_and_our_own_bugs_are_neither() -> None:
    bad = aws.ClientError({"Error": {"Code": "BadDigest"}}, "PutObject")
    assert isinstance(translate(bad, "x"), IntegrityError)
    assert translate(KeyError("a bug"), "x") is None
    with pytest.raises(KeyError), translated("x"):
        raise KeyError("a bug")


def test_the_local_disk_is_not_the_store(s3_http: S3Server, tmp_path: Path) -> None:
    store = open_store(s3_http.uri("disk"))
    store.write("a", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError):
        store.download("a", tmp_path / "file" / "a", store.digest("a") or "", 1)
    with pytest.raises(HostError):
        store.upload(tmp_path / "none", "b", "0" * 64)


@pytest.mark.skipif(not can_mount(), reason="can't mount a small file system here")
@pytest.mark.parametrize("size", [3_000_000, 40_000_000])
def test_a_full_local_disk_is_the_hosts_fault(s3_http: S3Server, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    store = open_store(s3_http.uri("full"))
    store.upload(source, "a", sha256_file(source))
    setup = MOUNT.format(root=str(tmp_path / "small"), source=str(source))
    setup += f"from halops.store.table import open_store\nstore = open_store({store.uri!r})"
    done = child(setup, "store.download('a', root / 'a', sha256_file(source), source.stat().st_size)", UNSHARE)
    assert done.returncode == 5, done.stdout + done.stderr
    assert done.stdout.startswith("HostError no room to write: No space left on device")

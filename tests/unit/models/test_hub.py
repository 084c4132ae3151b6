"""Models from a hub: pinning, files, resuming, digests, refusals; all on loopback servers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from halops.errors import ConfigError, HalopsError, HostError, IntegrityError, ModelError, NotFoundError, TransientError
from halops.models import download
from halops.models.source import fetch_model, pin
from halops.progress import Progress
from tests.hub_server import COMMIT, HubServer
from tests.s3_server import ROOT, free_port

URI = f"hf://tiny/llama@{COMMIT}"


def same(one: Path, other: Path) -> bool:
    return {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


def test_a_branch_or_tag_is_pinned_to_its_commit(hub: HubServer) -> None:
    assert pin("hf://tiny/llama") == URI
    assert pin("hf://tiny/llama@main") == URI
    assert pin("hf://tiny/llama@v1/tag") == URI
    assert hub.paths("hub")[-1] == "/api/models/tiny/llama/revision/v1%2Ftag?blobs=true"


def test_a_commit_needs_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert pin(URI) == URI
    assert hub.requests == []


def test_a_model_is_fetched_whole(hub: HubServer, model: Path, tmp_path: Path, cache: Path) -> None:
    events: list[dict[str, Any]] = []
    assert fetch_model(URI, tmp_path / "out", Progress(listener=events.append)) == tmp_path / "out"
    assert same(tmp_path / "out", model)
    size = sum(path.stat().st_size for path in model.iterdir())
    assert (events[-1]["done"], events[-1]["total"]) == (size, size)
    assert not list((cache / "downloads").glob("*/*"))  # nothing is kept twice


def test_a_model_in_shards(hub: HubServer, sharded: Path, tmp_path: Path) -> None:
    hub.add_folder("tiny/shards", sharded)
    fetch_model(f"hf://tiny/shards@{COMMIT}", tmp_path / "out")
    assert same(tmp_path / "out", sharded)


def test_other_formats_stay_behind(hub: HubServer, model: Path, tmp_path: Path) -> None:
    extra = ("pytorch_model.bin", "model.onnx", "model.Q4_K_M.gguf", "consolidated.safetensors", "modeling_x.py",
             "tokenizer.py", "README.md", "onnx/model.onnx", "original/consolidated.00.pth")  # fmt: skip
    hub.models["tiny/llama"] |= dict.fromkeys(extra, b"\x80\x02") | {"LICENSE": b"Apache-2.0"}
    fetch_model(URI, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {p.name for p in model.iterdir()} | {"LICENSE"}


def test_the_token_is_sent_to_the_hub_and_to_nobody_else(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.private.add("tiny/llama")
    fetch_model(URI, tmp_path / "out")
    for server, _, headers in hub.requests:
        assert headers.get("Authorization") == (f"Bearer {hub.token}" if server == "hub" else None)
    assert hub.paths("cdn")


def test_a_cut_connection_is_resumed(hub: HubServer, model: Path, tmp_path: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    hub.cuts["model.safetensors"] = [size // 3, size // 3]
    events: list[dict[str, Any]] = []
    fetch_model(URI, tmp_path / "out", Progress(listener=events.append))
    assert same(tmp_path / "out", model)
    assert hub.sent["model.safetensors"] == size  # no byte was sent twice
    assert events[-1]["done"] == events[-1]["total"]
    ranges = [headers.get("Range") for server, _, headers in hub.requests if server == "cdn"]
    assert ranges == [None, f"bytes={size // 3}-", f"bytes={2 * (size // 3)}-"]


def test_a_server_without_ranges_sends_it_all_again(hub: HubServer, model: Path, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"], hub.ignore_range = [1000], True
    events: list[dict[str, Any]] = []
    fetch_model(URI, tmp_path / "out", Progress(listener=events.append))
    assert same(tmp_path / "out", model)
    assert events[-1]["done"] == events[-1]["total"]


def test_a_killed_download_goes_on_in_the_next_process(hub: HubServer, model: Path, tmp_path: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    code = (
        "import os, signal, sys; from pathlib import Path; from halops.models import download, source\n"
        "download.Downloader._wait = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "source.fetch_model(sys.argv[1], Path(sys.argv[2]))"
    )
    hub.cuts["model.safetensors"] = [size // 2]
    child = subprocess.run([sys.executable, "-c", code, URI, str(tmp_path / "one")], cwd=ROOT, check=False)
    assert child.returncode == -9
    assert not (tmp_path / "one").exists()
    fetch_model(URI, tmp_path / "two")
    assert same(tmp_path / "two", model)
    assert hub.sent["model.safetensors"] == size


def test_a_failure_stops_the_other_files(hub: HubServer, tmp_path: Path) -> None:
    hub.trickle, hub.wrong = True, {"config.json"}
    began = time.monotonic()
    with pytest.raises(IntegrityError):
        fetch_model(URI, tmp_path / "out")
    assert time.monotonic() - began < 5  # of ten that the large file would take


def test_a_model_that_will_not_fit_is_refused_before_its_download(hub: HubServer, tmp_path: Path) -> None:
    hub.claims["model.safetensors"] = 10**18
    with pytest.raises(HostError, match=r"1,000,000,000\.0 GB are needed"):
        fetch_model(URI, tmp_path / "out")
    assert hub.paths("cdn") == []


def test_two_at_once_do_not_meet(hub: HubServer, model: Path, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [1000]  # slows the first one down
    with ThreadPoolExecutor() as pool:
        for folder in pool.map(lambda name: fetch_model(URI, tmp_path / name), ("one", "two")):
            assert same(folder, model)
    assert hub.sent["model.safetensors"] == 2 * (model / "model.safetensors").stat().st_size


@pytest.mark.parametrize("left", [b"", b"x" * 1_000_000])
def test_a_left_over_part_of_another_size(
    hub: HubServer, model: Path, tmp_path: Path, cache: Path, left: bytes
) -> None:
    hub.wrong.add("config.json")
    with pytest.raises(IntegrityError):
        fetch_model(URI, tmp_path / "out")
    hub.wrong.clear()
    (staging,) = (path for path in (cache / "downloads").iterdir() if path.is_dir())
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (staging / name).unlink(missing_ok=True)
        (staging / f"{name}.part").write_bytes(left)
    fetch_model(URI, tmp_path / "out")
    assert same(tmp_path / "out", model)


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_refused(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.wrong.add(path)
    with pytest.raises(IntegrityError, match="does not match its digest") as caught:
        fetch_model(URI, tmp_path / "out")
    assert caught.value.exit_code == 43
    assert path in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_beginning_is_fetched_anew(hub: HubServer, model: Path, tmp_path: Path, cache: Path) -> None:
    """Bytes left by an earlier try may be the fault: they get one more chance, from the start."""
    size = (model / "model.safetensors").stat().st_size
    hub.cuts["model.safetensors"], hub.wrong = [size // 2], {"config.json"}
    with pytest.raises(IntegrityError):
        fetch_model(URI, tmp_path / "out")
    hub.wrong.clear()
    (part,) = [*(cache / "downloads").glob("*/model.safetensors*")]
    part.write_bytes(b"damaged" + part.read_bytes()[7:])
    fetch_model(URI, tmp_path / "out")
    assert same(tmp_path / "out", model)


def test_a_listing_without_digests_takes_the_headers(hub: HubServer, model: Path, tmp_path: Path) -> None:
    hub.bare = True
    fetch_model(URI, tmp_path / "out")
    assert same(tmp_path / "out", model)
    hub.wrong.add("model.safetensors")
    with pytest.raises(IntegrityError):
        fetch_model(URI, tmp_path / "again")


def test_a_busy_hub_is_asked_again_when_it_says(hub: HubServer, tmp_path: Path) -> None:
    hub.busy, hub.retry_after = 2, "1"
    began = time.monotonic()
    assert pin("hf://tiny/llama") == URI
    assert time.monotonic() - began > 1.9
    hub.busy, hub.retry_after = 100, "0"
    with pytest.raises(TransientError, match="429"):
        pin("hf://tiny/llama")


@pytest.mark.parametrize(
    ("arrange", "uri", "error", "says"),
    [
        (lambda hub: hub.gated.add("tiny/llama"), URI, ModelError, ("gated", "HF_TOKEN")),
        (lambda hub: hub.private.add("tiny/llama"), URI, ModelError, ("private or gated", "HF_TOKEN")),
        (lambda hub: None, "hf://tiny/none", ModelError, ("doesn't exist", "HF_TOKEN")),
        (lambda hub: None, "hf://tiny/llama@v9", NotFoundError, ("no such revision", "@")),
        (lambda hub: hub.models["tiny/llama"].pop("model.safetensors"), URI, NotFoundError, ("no model.safetensors",)),
        (lambda hub: hub.models["tiny/llama"].pop("config.json"), URI, NotFoundError, ("no config.json",)),
    ],
)
def test_refusals_say_what_to_do(
    hub: HubServer, tmp_path: Path, arrange: Callable[[HubServer], None], uri: str, error: type[HalopsError],
    says: tuple[str, ...],
) -> None:  # fmt: skip
    arrange(hub)
    with pytest.raises(error) as caught:
        fetch_model(pin(uri), tmp_path / "out")
    for part in says:
        assert part in str(caught.value)


def test_a_model_that_a_token_can_not_find(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(NotFoundError, match="404") as caught:
        pin("hf://tiny/none")
    assert hub.token not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "says"),
    [({"pytorch_model.bin": b"PK"}, "only as pickles"), ({"model.Q4_0.gguf": b"GGUF"}, "file:///folder/NAME.gguf")],
)
def test_only_other_formats(hub: HubServer, tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    hub.models["tiny/old"] = {"config.json": b"{}"} | files
    with pytest.raises(ModelError) as caught:
        fetch_model(f"hf://tiny/old@{COMMIT}", tmp_path / "out")
    assert says in str(caught.value)
    assert hub.paths("cdn") == []


def test_a_pickle_named_safetensors_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.models["tiny/llama"]["model.safetensors"] = b"\x80\x04\x95" + bytes(100)
    with pytest.raises(ModelError, match="is a pickle"):
        fetch_model(URI, tmp_path / "out")


def test_no_hub_there(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(TransientError, match="again and again") as caught:
        pin("hf://tiny/llama")
    assert "HF_ENDPOINT" in str(caught.value)
    assert time.monotonic() - began < 5


def test_something_else_answers(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.setattr("tests.hub_server.HubHandler.answer", lambda self, path, query: self.say(200, b"<html>"))
    with pytest.raises(TransientError, match="no hub"):
        pin("hf://tiny/llama")


@pytest.mark.parametrize("endpoint", ["hub.example", "ftp://x", "http://", "http://[::1"])
def test_a_wrong_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        pin("hf://tiny/llama")


@pytest.mark.parametrize("uri", ["hf://", "hf://a/b/c", "hf://a/../b", "hf:///etc", "hf://a/b@", "hf://a/b#sha256=00"])
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(ConfigError, match="not a model's address"):
        pin(uri)


def test_retry_after_in_both_forms() -> None:
    import httpx

    def seconds(value: str) -> float | None:
        return download.retry_after(httpx.Response(429, headers={"Retry-After": value}))

    assert seconds("7") == 7
    assert seconds("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    assert seconds("soon") is None

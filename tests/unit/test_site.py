"""Site settings: found upwards, all problems at once, never half written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from halops.errors import ConfigError, HostError
from halops.site import S3, Secrets, Site, find_site, load_site, render_site, write_site


def test_defaults_without_a_file(tmp_path: Path) -> None:
    site, folder = find_site(tmp_path)
    assert site == Site()
    assert folder == tmp_path
    assert site.store_uri(folder) == f"file://{tmp_path}/.halops"


def test_the_nearest_file_upwards_wins_and_store_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "halops.yaml").write_text("store: ./outer\n")
    near = tmp_path / "team"
    (near / "a" / "b").mkdir(parents=True)
    (near / "halops.yaml").write_text("store: ./kept\n")
    site, folder = find_site(near / "a" / "b")
    assert folder == near
    assert site.store_uri(folder) == f"file://{near}/kept"


@pytest.mark.parametrize(
    ("store", "uri"),
    [("s3://ops/halops", "s3://ops/halops"), ("file:///srv/x", "file:///srv/x"), ("/srv/x", "file:///srv/x")],
)
def test_absolute_stores_stay(store: str, uri: str, tmp_path: Path) -> None:
    assert Site(store=store).store_uri(tmp_path) == uri


def test_every_problem_is_reported_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "halops.yaml"
    path.write_text(
        "stroe: x\nstore: gs://bucket\ngpu_prices: {a100: -1}\nsecrets: {hubb: x}\ns3: {endpoint_url: nowhere}\n"
    )
    with pytest.raises(ConfigError) as caught:
        find_site(tmp_path)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "stroe: unknown key; did you mean store?" in text
    assert "gs://bucket" in text
    assert "gpu_prices.a100" in text
    assert "secrets.hubb: unknown key; did you mean hub?" in text
    assert "s3.endpoint_url" in text
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"store: [", b"- a list\n", b"\xff\xfe\x00bad"])
def test_unreadable_yaml_is_a_config_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "halops.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        find_site(tmp_path)


def test_written_settings_come_back(tmp_path: Path) -> None:
    site = Site(
        store="s3://ops/halops",
        s3=S3(endpoint_url="http://127.0.0.1:7070"),
        secrets=Secrets(s3="halops-s3"),
        gpu_prices={"rtx8": 0.2, "40gb": 1.4},
        images={"train": "x@sha256:" + "0" * 64},
        queue="gpu",
    )
    path = tmp_path / "halops.yaml"
    write_site(path, site)
    assert load_site(path) == site


def test_commented_examples_are_valid_settings(tmp_path: Path) -> None:
    text = render_site(Site())
    examples = re.sub(r"(?m)^# (?=[a-z0-9_]+: )", "", text)
    assert examples.count("\n# ") >= 9  # the explanations stay comments
    (tmp_path / "halops.yaml").write_text(examples)
    site = load_site(tmp_path / "halops.yaml")
    unset = [name for name in Site.model_fields if name not in ("store", "namespace") and not getattr(site, name)]
    assert unset == []


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "halops.yaml"
    path.write_text("store: ./mine\n")
    with pytest.raises(ConfigError, match="there already"):
        write_site(path, Site())
    assert path.read_text() == "store: ./mine\n"
    write_site(path, Site(), force=True)
    assert load_site(path) == Site()


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "halops.yaml"
    path.write_text("store: ./mine\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostError, match="No space left"):
        write_site(path, Site(), force=True)
    assert path.read_text() == "store: ./mine\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="can't write"):
        write_site(tmp_path / "none" / "halops.yaml", Site())

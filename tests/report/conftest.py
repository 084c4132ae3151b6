"""Report data to render, and a browser to look at it with."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest

from halops.report.model import ReportData

# No request leaves the machine, and no profile survives.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=4000",
]  # fmt: skip


def _sample_module() -> Any:
    spec = importlib.util.spec_from_file_location("report_sample", Path(__file__).with_name("sample.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sample() -> ReportData:
    """A finished run's data."""
    data: ReportData = _sample_module().sample()
    return data


@pytest.fixture(scope="session")
def long_history() -> Any:
    """History of a run of 20,000 logged steps."""
    return _sample_module().history(20_000)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.fail("no Chromium here: apt-get install -y chromium")


class Browser:
    """Headless Chromium, one process for each look."""

    def __init__(self, executable: str, folder: Path) -> None:
        self._executable, self._folder = executable, folder

    def _run(self, html: str, *flags: str) -> str:
        page = self._folder / "page.html"
        page.write_text(html, encoding="utf-8")
        command = [self._executable, *FLAGS, f"--user-data-dir={self._folder / 'profile'}", *flags, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    def dom(self, html: str, *flags: str) -> str:
        """The DOM after loading, as HTML."""
        return self._run(html, "--dump-dom", *flags)

    def measure(self, html: str, width: int, expression: str) -> Any:
        """Evaluate JavaScript over `page` (the document's element) in a viewport of `width` pixels.

        The page is laid out in a frame: a headless window has a least width of its own.
        """
        script = f"""<script>
            addEventListener('load', () => {{
              const frame = document.querySelector('iframe'), page = frame.contentDocument.documentElement;
              document.title = JSON.stringify({expression});
            }})</script>"""
        frame = f'<iframe srcdoc="{escape(html)}" style="border:0;width:{width}px;height:3000px"></iframe>'
        dom = self.dom(
            f"<!doctype html><title>-</title><body style='margin:0'>{frame}{script}", "--window-size=1400,3000"
        )
        title = dom.partition("<title>")[2].partition("</title>")[0]
        return json.loads(title.replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))

    def screenshot(self, html: str, path: Path, width: int, height: int) -> Path:
        """A PNG of the page's top."""
        self._run(html, f"--window-size={width},{height}", f"--screenshot={path}")
        return path


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Browser:
    """The browser, with a profile of its own."""
    return Browser(chromium, tmp_path)


@pytest.fixture(scope="session")
def unfinished() -> Callable[..., ReportData]:
    """A run of which hardly anything is there."""

    def make(**changes: Any) -> ReportData:
        return ReportData(**({"run_id": "ops-0123456789", "name": "ops"} | changes))

    return make

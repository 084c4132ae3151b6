"""What goes in: the data file, the base model's source, the store."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from halops.checks.base import Check, fail, ok, skip, warn
from halops.errors import ConfigError, DataError, HalopsError
from halops.store.base import Store

TIMEOUT_SECONDS = 10
PINNED = re.compile(r"hf://[^@]+@[0-9a-f]{40}|pypi://[^=]+==.+|file://.+|s3://.+")


def data(path: str, expected: int | None) -> list[Check]:
    """The rows: there, readable, as many as expected; and probes beside them."""
    if "://" in path and not path.startswith("file://"):
        return [skip("data", f"{path} is looked at when the run is submitted")]
    file = Path(path.removeprefix("file://"))
    if not file.is_file():
        return [fail("data", f"no file {file}", "give one with --data FILE")]
    return [_rows(file, expected), _probes(file)]


def _rows(file: Path, expected: int | None) -> Check:
    from halops.data.check import check

    try:
        report = check(file, expected)
    except HalopsError as error:
        return fail("data", error.what, error.remedy or "")
    if report.problems:
        more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        return fail("data", report.problems[0] + more, f"`halops data check {file}` lists them all")
    counted = f"{report.rows:,} conversations in {file}" + (", as expected" if expected else "")
    if report.warnings:
        return warn("data", f"{counted}; {report.warnings[0]}", f"`halops data check {file}` lists all warnings")
    return ok("data", counted)


def _probes(file: Path) -> Check:
    from halops.probes import load_probes

    beside = file.with_name("probes.jsonl")
    if not beside.is_file():
        return skip("probes", f"no probes.jsonl beside {file.name}: the model is verified without")
    try:
        return ok("probes", f"{len(load_probes(beside))} in {beside}")
    except ConfigError as error:
        problem = error.problems[0] if error.problems else error.what
        return fail("probes", problem, "mend the file, or remove it")


def store(open_store: Callable[[], Store]) -> tuple[Check, Store | None]:
    """Reachable and writable; the store too, for whoever needs it next."""
    try:
        opened = open_store()
        opened.check()
    except DataError as error:
        return fail("store", error.what, error.remedy or ""), None
    except HalopsError as error:
        where = f" ({error.where})" if error.where else ""
        return fail("store", f"{error.what}{where}", error.remedy or "check the address and the credentials"), None
    return ok("store", f"{opened.uri} can be written"), opened


def model(uri: str, mirrored: bool, reach: Callable[[], str]) -> Check:
    """The base model: mirrored already, or to be had; and pinned.

    Args:
        mirrored: whether the store holds this very model.
        reach: tries the source; returns an empty string, or what is wrong.
    """
    if mirrored:
        return ok("model", f"{uri} is mirrored in the store")
    if problem := reach():
        return fail("model", f"{uri}: {problem}", _reach_remedy(uri, problem))
    if not PINNED.fullmatch(uri):
        return warn("model", f"{uri} is not pinned: `submit` takes what is newest then", "name a commit after @")
    return ok("model", f"{uri} is pinned; its first run fetches it")


def _reach_remedy(uri: str, problem: str) -> str:
    if "refused access" in problem:
        return "accept the model's licence on the hub, and set HF_TOKEN"
    if "no such" in problem:
        return "check the name and the revision in model.uri"
    return "set HF_ENDPOINT to a mirror that can be reached" if uri.startswith("hf://") else "check model.uri"


def reach_hub(uri: str, endpoint: str, token: str | None, timeout: float = TIMEOUT_SECONDS) -> str:
    """Ask a hub for the model's config.json, without its body. Returns what is wrong, or an empty string."""
    import httpx

    name, _, revision = uri.removeprefix("hf://").partition("@")
    url = f"{endpoint.rstrip('/')}/{name}/resolve/{revision or 'main'}/config.json"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        code = httpx.head(url, headers=headers, timeout=timeout, follow_redirects=True).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the hub can't be reached: {error or type(error).__name__}"
    if code in (401, 403):
        return "the hub refused access"
    if code == 404:
        return "the hub has no such model, or no such revision"
    return "" if code < 400 else f"the hub answered {code}"


def reach_folder(uri: str) -> str:
    """Whether a model's folder is there. Returns what is wrong, or an empty string."""
    folder = Path(uri.removeprefix("file://").partition("#")[0])
    if not folder.exists():
        return f"no such folder {folder}"
    if folder.is_file() or (folder / "config.json").is_file() or any(folder.glob("*.gguf")):
        return ""
    return "the folder has no config.json and no .gguf file"

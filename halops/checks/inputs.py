"""What goes in: the data file, the base model's source, the store."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from halops.checks.base import Check, fail, ok, skip, warn
from halops.errors import ConfigError, DataError, HalopsError
from halops.store.base import Store

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


def model(uri: str, mirrored: bool, reach: Callable[[str], None]) -> Check:
    """The base model: mirrored already, or to be had; and pinned.

    Args:
        mirrored: whether the store holds this very model.
        reach: tries the source; raises what fetching would raise.
    """
    if mirrored:
        return ok("model", f"{uri} is mirrored in the store")
    try:
        reach(uri)
    except HalopsError as error:
        where = f" ({error.where})" if error.where and error.where != uri else ""
        return fail("model", f"{uri}: {error.what}{where}", error.remedy or "check model.uri")
    if not PINNED.fullmatch(uri):
        return warn("model", f"{uri} is not pinned: `submit` takes what is newest then", "name a commit after @")
    return ok("model", f"{uri} is pinned; its first run fetches it")


def reach_model(uri: str) -> None:
    """Ask a hub for its listing of the model, look into a local folder. Other sources are tried when they are used.

    Raises what fetching the model would raise.
    """
    scheme = uri.partition("://")[0]
    if scheme == "hf":
        from halops.models.hub import Hub, split

        with Hub() as hub:
            hub.listing(*split(uri))
    elif scheme == "file":
        from halops.models.check import check_folder

        folder = Path(uri.removeprefix("file://").partition("#")[0])
        if not folder.is_file():  # a GGUF file is looked into when it is dequantized
            check_folder(folder)

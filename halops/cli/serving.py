"""What `serve` and `chat` share: which file is served, with which settings, and by whom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halops.cli.common import Place, note, open_place

if TYPE_CHECKING:
    from halops.chat import ChatClient
    from halops.llamacpp.toolchain import Toolchain
    from halops.runspec import RunSpec
    from halops.sections import Serving


@dataclass(frozen=True)
class Served:
    """One GGUF and how to serve it."""

    toolchain: Toolchain
    model: Path
    serving: Serving
    alias: str


def served(run: str | None, model: Path | None, options: dict[str, Any]) -> Served:
    """The file and settings that a command line asks for. Raises NotFoundError, ConfigError, HostError."""
    from halops.cli.byhand import existing
    from halops.llamacpp.toolchain import find
    from halops.profile import load_profile
    from halops.runstate import find_run, load_spec

    if model:
        serving = load_profile(options["profile"], options["overrides"]).serving
        return Served(find(), existing(model, "GGUF file"), adjusted(serving, options), model.stem)
    where = open_place(options["store"])
    run_id = find_run(where.store, run)
    spec = load_spec(where.store, run_id)
    serving = override(spec.profile.serving, options["overrides"])
    return Served(find(), run_file(where, spec, serving.file), adjusted(serving, options), run_id)


def adjusted(serving: Serving, options: dict[str, Any]) -> Serving:
    """`--host` and `--port` win over the profile."""
    changes = {key: options[key] for key in ("host", "port") if options.get(key)}
    return serving.model_copy(update=changes)


def override(serving: Serving, overrides: tuple[str, ...]) -> Serving:
    """A run's serving settings with `--set serving.key=value` applied. Raises ConfigError."""
    from halops.errors import ConfigError
    from halops.profile import load_profile

    if not overrides:
        return serving
    wrong = [text for text in overrides if not text.startswith("serving.")]
    if wrong:
        raise ConfigError("a finished run's settings are fixed, all but serving", [f"--set {text}" for text in wrong])
    given = [f"serving.{key}={value}".lower() if isinstance(value, bool) else f"serving.{key}={value}"
             for key, value in serving.model_dump().items()]  # fmt: skip
    return load_profile("local", (*given, *overrides)).serving


def run_file(where: Place, spec: RunSpec, kind: str) -> Path:
    """The run's GGUF of one type, verified, as a local file. Raises NotFoundError."""
    from halops.cli.byhand import existing, fetched

    name = f"{spec.profile.convert.name}-{kind}.gguf"
    return existing(fetched(where, spec.run_id, "convert", (name,)) / name, f"{kind} file in run {spec.run_id}")


@contextlib.contextmanager
def endpoints(run: str | None, *, compare_base: bool, options: dict[str, Any]) -> Iterator[dict[str, ChatClient]]:
    """Clients for the endpoints of a conversation, by name; servers that were started here end with it."""
    from halops.chat import ChatClient
    from halops.errors import ConfigError

    if run and "://" in run:
        if compare_base:
            raise ConfigError("--compare base needs a run", remedy="give a run instead of an address")
        yield {"tuned": ChatClient(run, api_key=options["api_key"])}
        return
    with contextlib.ExitStack() as stack:
        if not compare_base and (client := stack.enter_context(in_cluster(run, options))):
            yield {"tuned": client}
            return
        chosen = served(run, None, options)
        clients = {"tuned": stack.enter_context(running(chosen, options))}
        if compare_base:
            clients = {"base": stack.enter_context(running(base_of(chosen, options), options)), **clients}
        yield clients


@contextlib.contextmanager
def in_cluster(run: str | None, options: dict[str, Any]) -> Iterator[ChatClient | None]:
    """A client of the pod that serves a run; None for a run of this machine, or one that isn't deployed."""
    from halops.cli.deploying import open_target
    from halops.deploy.endpoint import pod_endpoint, pod_of_run
    from halops.errors import HalopsError
    from halops.runstate import find_run, load_spec

    target = open_target(options)
    where = target.where
    run_id = find_run(where.store, run)
    if load_spec(where.store, run_id).profile.cluster.backend == "local":
        yield None
        return
    try:
        api = target.api
        pod = pod_of_run(api, run_id)
    except HalopsError as error:
        note(f"not looked for in the cluster: {error.what}")
        pod = None
    if pod is None:
        yield None
        return
    note(f"asking pod {pod['metadata']['name']}")
    with pod_endpoint(api, pod, options["api_key"]) as client:
        yield client


@contextlib.contextmanager
def running(chosen: Served, options: dict[str, Any]) -> Iterator[ChatClient]:
    """A client for a server of this file: the one that runs already, or one for as long as we need it."""
    from halops.chat import ChatClient
    from halops.llamacpp.server import LlamaServer

    url = f"http://{chosen.serving.host}:{chosen.serving.port}"
    if chosen.alias in _served_models(url):
        yield ChatClient(url, api_key=options["api_key"])
        return
    note(f"starting llama-server on {chosen.model.name} ...")
    log = server_log(options["store"], chosen.alias)
    with LlamaServer(chosen.toolchain, chosen.model, chosen.serving, alias=chosen.alias, log=log, port=0) as server:
        yield ChatClient(server.url)


def base_of(chosen: Served, options: dict[str, Any]) -> Served:
    """The run's base model as a GGUF of 16 bits, made once and kept in the user's cache."""
    from halops.cli.byhand import fetched
    from halops.llamacpp.convert import Converter, base_gguf
    from halops.runstate import load_spec

    where = open_place(options["store"])
    spec = load_spec(where.store, chosen.alias)
    converter = Converter(chosen.toolchain, where.state / "local" / f"{spec.base.digest}-convert.log")
    model = base_gguf(fetched(where, spec.run_id, "base"), spec.base.digest, converter)
    return Served(chosen.toolchain, model, chosen.serving, f"base-{spec.base.digest}")


def server_log(store: str | None, alias: str) -> Path:
    """Where a server's output goes."""
    folder = open_place(store).state / "local"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{alias}-server.log"


def _served_models(url: str) -> list[str]:
    """Names of the models that a server at `url` has; empty where there is none."""
    import httpx

    try:
        answer = httpx.get(f"{url}/v1/models", timeout=2)
        return [item["id"] for item in answer.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []

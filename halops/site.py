"""Site (`halops.yaml`): what is the same for every run of one place. Written once by `halops init`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from halops.artifact import Frozen
from halops.errors import ConfigError, HostError
from halops.names import SITE_FILE, STATE_FOLDER
from halops.profile import describe, read_yaml

Price = Annotated[float, Field(ge=0)]
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class S3(Frozen):
    """How to reach an S3 server that isn't AWS's own."""

    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    region: str | None = None


class Secrets(Frozen):
    """Names of cluster Secrets; their contents are never written here."""

    s3: SecretName | None = None
    hub: SecretName | None = None


class ServingSite(Frozen):
    """Where models are served: the release's name and namespace, the Secret with API keys, the chart's own values."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")] = "ops"
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "halops-serving"
    secret: SecretName = "halops-api-keys"
    values: str | None = None  # a file of the chart's values, relative to the site's folder


class FeedbackSite(Frozen):
    """Whether `halops chat` keeps what people rate. `ask` asks for their consent; `always` is for those who gave it."""

    log: Literal["never", "ask", "always"] = "never"
    folder: str = "feedback"  # relative to the site's folder


class Site(Frozen):
    """A place's settings. Every one has a default, so that no file is needed to begin with."""

    store: str = f"./{STATE_FOLDER}"
    s3: S3 | None = None
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "halops"
    registry: str | None = None
    images: dict[str, str] = {}
    secrets: Secrets = Secrets()
    queue: str | None = None
    gpu_prices: dict[str, Price] = {}
    webhook: Annotated[str, Field(pattern=r"^https?://")] | None = None
    serving: ServingSite = ServingSite()
    feedback: FeedbackSite = FeedbackSite()

    @field_validator("store")
    @classmethod
    def _known_scheme(cls, store: str) -> str:
        scheme, separator, rest = store.partition("://")
        if separator and (scheme not in ("file", "s3") or not rest):
            raise ValueError(f"{store!r} is no store: give a folder, file:///FOLDER or s3://BUCKET/PREFIX")
        if not store.strip():
            raise ValueError("give a folder, file:///FOLDER or s3://BUCKET/PREFIX")
        return store

    def store_uri(self, folder: Path) -> str:
        """The store as a URI; a plain path is relative to `folder`, the site file's."""
        if "://" in self.store:
            return self.store
        return f"file://{(folder / Path(self.store).expanduser()).resolve()}"


def find_site(start: Path) -> tuple[Site, Path]:
    """The nearest `halops.yaml` in `start` or above it, and its folder; else the defaults and `start`.

    Raises ConfigError with every problem of the file.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / SITE_FILE).is_file():
            return load_site(folder / SITE_FILE), folder
    return Site(), start


def load_site(path: Path) -> Site:
    """A site file. Raises ConfigError with all problems, NotFoundError if it can't be read."""
    return make_site(read_yaml(path), str(path))


def make_site(raw: dict[str, Any], where: str = SITE_FILE) -> Site:
    """Settings as a file has them, checked. Raises ConfigError with all problems."""
    try:
        return Site.model_validate(raw)
    except ValidationError as error:
        problems = describe(error, Site)
        raise ConfigError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the site's settings",
            problems,
            where=where,
            remedy="`halops init --force` writes a file with every setting explained",
        ) from error


def write_site(path: Path, site: Site, force: bool = False) -> None:
    """Write a commented site file. The old one stays as it is unless the new one is complete on disk.

    Raises:
        ConfigError: there is one already, and `force` isn't set.
        HostError: it can't be written.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path.name} is there already", where=str(path), remedy="--force replaces it")
    text = render_site(site)
    try:
        replace_file(path, text)
    except OSError as error:
        raise HostError(
            f"can't write the site's settings: {error.strerror}",
            where=str(path),
            remedy="check the folder and its disk",
        ) from error


def replace_file(path: Path, text: str) -> None:
    """Write a file so that it is the old one or the new one, never half of it. It keeps its mode; a link stays one."""
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


# Setting -> its explanation, and an example shown while it isn't set.
_COMMENTS: dict[str, tuple[str, str]] = {
    "store": ("Where runs are kept: a folder (relative to this file), or s3://BUCKET/PREFIX.", ""),
    "s3": (
        "An S3 server other than AWS. Keys come from the environment or the `secrets` below.",
        "s3: {endpoint_url: http://127.0.0.1:7070, region: us-east-1}",
    ),
    "namespace": ("Kubernetes namespace that runs live in.", ""),
    "registry": ("Where `halops images` pushes.", "registry: REGISTRY/TEAM"),
    "images": (
        "Images of the stages by digest, as `halops images` locks them.",
        "images: {train: IMAGE@sha256:DIGEST}",
    ),
    "secrets": (
        "Names of Secrets in the namespace: S3 keys, and the hub's token.",
        "secrets: {s3: halops-s3, hub: halops-hub}",
    ),
    "queue": ("Kueue's LocalQueue for GPU jobs.", "queue: gpu"),
    "gpu_prices": (
        "Price of an hour, by profile or by card size; `cpu` for stages without a GPU.",
        "gpu_prices: {rtx8: 0.20, 40gb: 1.40, cpu: 0.05}",
    ),
    "webhook": ("Called with a JSON document when a run ends.", "webhook: https://HOST/PATH"),
    "serving": (
        "Where `halops deploy` serves: release, namespace, the Secret with API keys, own values for the chart.",
        "serving: {name: ops, namespace: halops-serving, secret: halops-api-keys, values: serving.yaml}",
    ),
    "feedback": (
        "Whether `halops chat` keeps rated answers, to train on: never, ask (for consent), always (they have agreed).",
        "feedback: {log: ask, folder: feedback}",
    ),
}


def render_site(site: Site) -> str:
    """The site as YAML: each setting under a comment, those at their default commented out with an example."""
    values = site.model_dump(mode="json", exclude_none=True)
    lines = ["# HALops: settings of this site. Profiles stay portable; flags win over both."]
    for key, (comment, example) in _COMMENTS.items():
        lines += ["", f"# {comment}"]
        if example and getattr(site, key) == getattr(Site(), key):
            lines.append(f"# {example}")
        else:
            lines += yaml.safe_dump({key: values[key]}, sort_keys=False, width=100).rstrip().splitlines()
    return "\n".join(lines) + "\n"

"""What every verb needs: the site, its store, the backend; and the options that choose them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from halops.backends.base import Backend
    from halops.backends.kube.api import KubeApi
    from halops.checks.view import ClusterView
    from halops.manifests.run import Rendered
    from halops.runspec import RunSpec
    from halops.site import Site
    from halops.store.base import Store


VIEW_PATIENCE = 3.0  # seconds with a server that is away: a look doesn't wait for it


@dataclass(frozen=True)
class Place:
    """Where this command works: the site's settings, the store, and this machine's state folder."""

    site: Site
    folder: Path
    store: Store

    @property
    def state(self) -> Path:
        """Locks, logs and scratch of this machine."""
        from halops.names import STATE_FOLDER

        return self.folder / STATE_FOLDER

    def backend(self, spec: RunSpec, render: Callable[[RunSpec], Rendered] | None = None) -> Backend:
        """Where that run's stages run. Raises ConfigError if that is a cluster and none is configured."""
        if spec.profile.cluster.backend == "local":
            from halops.backends.local import LocalBackend

            return LocalBackend(self.store, self.state)
        from halops.backends.kube.backend import KubeBackend

        return KubeBackend(self.cluster(), self.store, render, note)

    def cluster(self) -> KubeApi:
        """The site's namespace of the current kubeconfig's cluster."""
        from halops.backends.kube.api import KubeApi
        from halops.backends.kube.connection import connect

        return KubeApi(connect(), self.site.namespace)


def open_place(store: str | None = None) -> Place:
    """Site and store, with `--store` winning over the site's. Raises ConfigError, StoreUnavailable."""
    from halops.names import ENV_STORE
    from halops.site import find_site
    from halops.store.table import open_store

    site, folder = find_site(Path.cwd())
    given = store or os.environ.get(ENV_STORE)
    uri = site.model_copy(update={"store": given}).store_uri(folder) if given else site.store_uri(folder)
    if site.s3:  # boto3 reads these, here and in the stages
        for name, value in (("AWS_ENDPOINT_URL_S3", site.s3.endpoint_url), ("AWS_REGION", site.s3.region)):
            if value:
                os.environ.setdefault(name, value)
    return Place(site, folder, open_store(uri))


def cluster_view(site: Site) -> ClusterView:
    """The site's namespace, and the nodes, of the current kubeconfig's cluster. Raises ConfigError without one."""
    from halops.backends.kube.api import KubeApi
    from halops.backends.kube.connection import connect
    from halops.backends.kube.view import KubeView

    return KubeView(KubeApi(connect(), site.namespace, patience=VIEW_PATIENCE))


def site_folder() -> Path:
    """The folder of the site's settings, or this one."""
    from halops.site import find_site

    return find_site(Path.cwd())[1]


def store_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--store URI`."""
    return click.option("--store", metavar="URI", help="Store to use instead of the site's.")(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def profile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--profile NAME` and `--set path=value`."""

    @click.option("--profile", "-p", default="local", show_default=True, metavar="NAME|FILE", help="Profile to use.")
    @click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override one setting.")
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped


def print_json(value: Any, indent: int | None = 2) -> None:
    """JSON on stdout; on one line where `indent` is None."""
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def note(text: str) -> None:
    """Chatter goes to stderr; stdout is for results."""
    click.echo(text, err=True)

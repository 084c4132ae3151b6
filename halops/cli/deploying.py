"""What the verbs about a deployed model share: the chart, helm in the serving namespace, a run's values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import Place, open_place, store_option

if TYPE_CHECKING:
    from halops.backends.kube.api import KubeApi
    from halops.deploy.candidate import Candidate
    from halops.deploy.helm import Helm

CHART = Path("helm") / "halops-inference"


def release_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--name`, `--namespace`, `--chart` and `--store`."""
    for option in (
        store_option,
        click.option("--chart", type=click.Path(path_type=Path, exists=True), help="Chart, instead of the checkout's."),
        click.option("--namespace", "-n", help="Namespace, instead of the site's for serving."),
        click.option("--name", help="Release, instead of the site's."),
    ):
        function = option(function)
    return function


@dataclass(frozen=True)
class Target:
    """Where a release is."""

    where: Place
    name: str
    namespace: str

    @property
    def helm(self) -> Helm:
        """helm there."""
        from halops.deploy.helm import Helm

        return Helm(self.namespace)

    @property
    def api(self) -> KubeApi:
        """The API server, for pods and Secrets there."""
        return self.where.cluster().within(self.namespace)

    def values_of(self, candidate: Candidate, *, cpu: bool) -> dict[str, Any]:
        """A run's values for the chart. Raises ConfigError."""
        from halops.cli.plan import dimensions_of
        from halops.deploy.values import chart_values

        site = self.where.site
        site = site.model_copy(update={"serving": site.serving.model_copy(update={"name": self.name})})
        return chart_values(candidate, site, self.where.store.uri, dimensions_of(candidate.spec.profile), cpu=cpu)

    @property
    def own_values(self) -> tuple[Path, ...]:
        """The site's file of values. Raises NotFoundError if it is named and not there."""
        from halops.errors import NotFoundError

        given = self.where.site.serving.values
        if not given:
            return ()
        path = self.where.folder / given
        if not path.is_file():
            raise NotFoundError(f"no values file {path}", remedy="correct serving.values in halops.yaml")
        return (path,)


def open_target(options: dict[str, Any]) -> Target:
    """The release that the options and the site name."""
    where = open_place(options.get("store"))
    serving = where.site.serving
    return Target(where, options.get("name") or serving.name, options.get("namespace") or serving.namespace)


def find_model(target: Target, run: str | None, *, fast: bool, force: bool) -> Candidate:
    """What of a run is to be served. Raises VerificationError unless it is verified, or `fast` or `force` is set."""
    from halops.cli.fast import fast_run
    from halops.deploy.candidate import find_candidate, require_verified

    if fast:
        return fast_run(target.where, run)
    candidate = find_candidate(target.where.store, run)
    require_verified(candidate, force)
    return candidate


def find_chart(given: Path | None) -> Path:
    """The chart: a folder or package that was named, or the checkout's. Raises NotFoundError."""
    import halops
    from halops.errors import NotFoundError

    if given:
        return given.resolve()
    for folder in (Path.cwd(), Path(halops.__file__).parents[1]):
        if (folder / CHART / "Chart.yaml").is_file():
            return (folder / CHART).resolve()
    raise NotFoundError(f"no chart: {CHART} is in a checkout of HALops", remedy="run it there, or give --chart")

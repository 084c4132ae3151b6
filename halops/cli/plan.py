"""halops plan"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halops.cli.common import json_option, open_place, print_json, profile_options

if TYPE_CHECKING:
    from halops.checks.nodes import StageFit
    from halops.compare import MethodRow
    from halops.estimate import StageEstimate
    from halops.profile import Profile
    from halops.sections import Dimensions

PIPE_WIDTH = 160


@click.command()
@profile_options
@click.option("--data", metavar="FILE", help="Count its conversations instead of assuming a number.")
@click.option("--nodes", is_flag=True, help="What each stage asks for against the cluster's nodes.")
@click.option("--compare", is_flag=True, help="Full fine-tuning, LoRA, QLoRA, prompt tuning, in-context: side by side.")
@json_option
def command(
    profile: str, overrides: tuple[str, ...], data: str | None, nodes: bool, compare: bool, as_json: bool
) -> None:
    """Show what each stage needs: VRAM, RAM, disk, time and price. Needs no hub and no GPU.

    \b
      halops plan --profile rtx8
      halops plan --profile a100 --compare
      halops plan --profile a100 --nodes
    """
    from halops.profile import load_profile

    loaded = load_profile(profile, overrides)
    dims = dimensions_of(loaded)
    if compare:
        from halops.compare import compare_methods

        methods = compare_methods(loaded, dims)
        print_json([row.model_dump() for row in methods]) if as_json else print_methods(methods)
        return
    if nodes:
        rows = against_nodes(loaded, dims)
        print_json([row.model_dump() for row in rows]) if as_json else print_fit(rows)
        return
    estimates = estimate(loaded, dims, data)
    if as_json:
        print_json({"profile": loaded.model_dump(mode="json"), "stages": [item.model_dump() for item in estimates]})
    else:
        print_estimates(estimates)


def dimensions_of(profile: Profile) -> Dimensions:
    """The profile's dimensions, or those in the config.json of a local model. Raises ConfigError."""
    from halops.errors import ConfigError
    from halops.models.dimensions import read_dimensions

    if profile.model.dimensions:
        return profile.model.dimensions
    config = Path(profile.model.uri.removeprefix("file://").partition("#")[0]) / "config.json"
    if config.is_file():
        return read_dimensions(config)
    raise ConfigError(
        "the model's dimensions aren't known without its config.json",
        where=profile.model.uri,
        remedy="give model.dimensions in the profile, as the shipped profiles do",
    )


def estimate(profile: Profile, dims: Dimensions, data: str | None) -> list[StageEstimate]:
    """Estimates of all stages, from the dataset's own count where it is at hand."""
    from halops.errors import NotFoundError
    from halops.estimate import estimate_run
    from halops.names import DEFAULT_DATA

    place = open_place()
    path = Path(data) if data else place.folder / DEFAULT_DATA
    if data and not path.is_file():
        raise NotFoundError(f"no data file {data}", remedy="check the path")
    rows = sum(1 for line in path.open("rb") if line.strip()) if path.is_file() else None
    return estimate_run(profile, dims, rows, None, dict(place.site.gpu_prices), cores=os.cpu_count() or 1)


def against_nodes(profile: Profile, dims: Dimensions) -> list[StageFit]:
    """Each stage against the current cluster's nodes. Raises ConfigError if they may not be seen."""
    from halops.checks.cluster import pod_needs
    from halops.checks.nodes import fit, read_nodes
    from halops.cli.common import cluster_view
    from halops.errors import ConfigError
    from halops.site import find_site

    view = cluster_view(find_site(Path.cwd())[0])
    found, pods = view.nodes(), view.pods_on_nodes()
    if found is None:
        raise ConfigError("we may not list nodes", remedy="k8s/components/node-reader allows it")
    return fit(pod_needs(profile, dims), profile.cluster, read_nodes(found, pods), pods_known=pods is not None)


def print_fit(fits: list[StageFit]) -> None:
    """A table for people."""
    from halops.units import human_bytes

    rows = [
        (
            item.stage,
            item.cpu,
            human_bytes(item.memory_bytes),
            human_bytes(item.disk_bytes),
            str(item.gpus or "-"),
            str(len(item.holding)),
            "?" if item.free is None else str(len(item.free)),
            item.reason or ", ".join(item.free or item.holding),
        )
        for item in fits
    ]
    _table(("stage", "CPU", "RAM", "disk", "GPU", "nodes", "free", "where"), rows)


def print_estimates(estimates: list[StageEstimate]) -> None:
    """A table for people."""
    from halops.units import human_bytes, human_gib, human_seconds

    rows = [
        (
            item.stage,
            human_gib(item.vram_bytes) if item.vram_bytes else "-",
            human_bytes(item.ram_bytes),
            human_bytes(item.disk_bytes),
            human_seconds(item.seconds) if item.seconds else "-",
            f"{item.cost:.2f}" if item.cost is not None else "-",
            item.note,
        )
        for item in estimates
    ]
    _table(("stage", "VRAM", "RAM", "disk", "time", "price", "note"), rows)


def print_methods(methods: list[MethodRow]) -> None:
    """A table for people."""
    from halops.units import human_bytes, human_count, human_gib, human_seconds

    rows = [
        (
            item.method,
            human_count(item.trainable_parameters),
            human_gib(item.vram_bytes),
            human_bytes(item.artifact_bytes),
            human_seconds(item.seconds_per_1000_rows),
            f"{item.prompt_tokens}",
            " ".join(f"{card}" for card, fits in item.fits.items() if fits) or "none",
            item.words,
        )
        for item in methods
    ]
    heads = ("method", "trained", "VRAM", "to store", "1,000 rows", "prompt tokens", "fits GB", "")
    _table(heads, rows)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, box=SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console = Console(width=PIPE_WIDTH)
    console.print(table)

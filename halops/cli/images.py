"""halops images"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halops.cli.common import json_option, note, print_json

if TYPE_CHECKING:
    from halops.images.build import Built
    from halops.images.plan import Build
    from halops.images.tools import Name, Tool


@click.command()
@click.option("--push", is_flag=True, help="Push to the registry; a cluster can pull nothing else.")
@click.option("--registry", metavar="R", help="Registry and path to push to, instead of the site's.")
@click.option("--only", multiple=True, type=click.Choice(["merge", "train", "convert", "serve"]), help="This image.")
@click.option("--base-image", metavar="REF", help="Base instead of the Dockerfiles': a Debian with Python 3.11.")
@click.option(
    "--serve", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Kind of llama-server."
)
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE", help="Passed on to the tool.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="id=NAME,src=FILE", help="A pip, uv or ca file, for the build only."
)
@click.option(
    "--tool", type=click.Choice(["docker", "podman", "buildah"]), help="Tool to use, not the first that works."
)
@click.option("--dry-run", is_flag=True, help="Show names and commands, and run nothing.")
@json_option
def command(
    push: bool,
    registry: str | None,
    only: Sequence[str],
    base_image: str | None,
    serve: str,
    build_args: Sequence[str],
    secrets: Sequence[str],
    tool: Name | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the stages' images and lock their digests into halops.yaml.

    \b
      halops images --push
      halops images --push --only convert --build-arg TORCH_INDEX=https://HOST/cpu
    """
    import halops
    from halops.errors import ConfigError
    from halops.images.build import build_all, revision_labels
    from halops.images.lock import lock_images
    from halops.images.plan import Options, checkout, plan_builds
    from halops.images.tools import choose, probe_tool
    from halops.names import STATE_FOLDER
    from halops.site import find_site

    site, folder = find_site(Path.cwd())
    registry = registry or site.registry
    if push and not registry:
        raise ConfigError(
            "no registry to push to", where="registry", remedy="--registry REGISTRY/TEAM, or `registry:` in halops.yaml"
        )
    root = checkout(Path.cwd(), Path(halops.__file__).parents[1])
    chosen = choose(tool, probe_tool)
    options = Options(registry, base_image, serve, _pairs(build_args), tuple(secrets))
    builds = plan_builds(root, only, options, revision_labels(root))
    if dry_run:
        _show_plan(builds, chosen, push=push, as_json=as_json)
        return
    built = build_all(builds, chosen, root, folder / STATE_FOLDER / "images", push=push, say=note)
    locks = {each.name: each.locked for each in built if each.locked}
    if locks:
        note(f"locked in {lock_images(folder, locks, registry)}")
    if not push:
        note("not pushed: these images are on this machine only, and a cluster can't pull them; --push pushes")
    _show(built, as_json=as_json)


def _pairs(build_args: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in build_args]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.UsageError(f"--build-arg {name}: give NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _show_plan(builds: Sequence[Build], tool: Tool, *, push: bool, as_json: bool) -> None:
    from halops.images.tools import shown

    plan = [
        {"name": build.image.name, "reference": build.reference, "build": shown(tool.build(build)),
         "push": shown(tool.push(build.reference, "DIGEST_FILE")) if push else None}
        for build in builds
    ]  # fmt: skip
    if as_json:
        print_json({"tool": tool.name, "images": plan})
        return
    for step in plan:
        click.echo(f"{step['name']}  {step['reference']}")
        for line in filter(None, (step["build"], step["push"])):
            click.echo(f"    {line}")


def _show(built: Sequence[Built], *, as_json: bool) -> None:
    if as_json:
        print_json([each.__dict__ for each in built])
        return
    for each in built:
        click.echo(f"{each.name:8} {each.locked or each.reference + '  (no digest yet)'}  {each.seconds:.0f} s")

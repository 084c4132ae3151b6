"""halops train"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halops.cli.common import json_option, note, print_json

if TYPE_CHECKING:
    from halops.profile import Profile
    from halops.runspec import RunSpec

FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--config", "-c", required=True, metavar="FILE", help="A profile, or a classic QLoRA config.")
@click.option("--data", metavar="FILE|URI", default="data/final/train.jsonl", show_default=True)
@click.option("--resume", type=FOLDER, metavar="CHECKPOINT", help="Go on from this checkpoint folder.")
@click.option("--output", "-o", type=FOLDER, default=Path("trained"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override one setting.")
@click.option("--dry-run", is_flag=True, help="Print the resolved profile; train nothing.")
@json_option
def command(config: str, data: str, resume: Path | None, output: Path, **options: Any) -> None:
    """Train an adapter by hand: the data stage, then training; checkpoints are kept beside the output.

    \b
      halops train --config qlora.yaml --data ops.jsonl -o trained
      halops train --config qlora.yaml --data ops.jsonl -o trained --resume trained.checkpoints/100
    """
    from halops.cli.byhand import existing, run_stage
    from halops.profile import load_profile
    from halops.train.checkpoints import LocalCheckpoints

    profile = load_profile(config, options["overrides"])
    if options["dry_run"]:
        print_json(profile.model_dump(mode="json"))
        return
    folder = output.with_name(output.name + ".checkpoints")
    checkpoints = LocalCheckpoints(
        folder, limit=profile.training.save_total_limit, resume=existing(resume, "checkpoint") if resume else None
    )
    with tempfile.TemporaryDirectory(prefix="halops-") as scratch:
        spec, inputs = _inputs(profile, data, Path(scratch))
        metrics = run_stage("train", spec, inputs, output, checkpoints)
    note(f"checkpoints are in {folder}")
    print_json(metrics) if options["as_json"] else click.echo(output / "adapter")


def _inputs(profile: Profile, data: str, scratch: Path) -> tuple[RunSpec, dict[str, Path]]:
    """Resolve, fetch the base, prepare the data; the folders that training reads."""
    from halops.cli.byhand import run_stage
    from halops.resolve import resolve

    spec, sources = resolve(profile, data, scratch=scratch)
    run_stage("base", spec, {}, scratch / "base")
    dataset = scratch / "dataset"
    dataset.mkdir()
    (dataset / "rows.jsonl").symlink_to(sources.rows.resolve())
    run_stage("data", spec, {"base": scratch / "base", "dataset": dataset}, scratch / "data")
    inputs = {"base": scratch / "base", "data": scratch / "data"}
    if spec.adapter:
        from halops.models.source import fetch_model

        inputs["adapter"] = fetch_model(spec.adapter.uri, scratch / "adapter")
    return spec, inputs

"""halops report"""

from __future__ import annotations

from pathlib import Path

import click

from halops.cli.common import note, open_place, store_option


@click.command()
@click.argument("run", required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write.  [default: RUN.html]")
@click.option("--text", is_flag=True, help="Print the summary on the terminal instead.")
@store_option
def command(run: str | None, output: Path | None, text: bool, store: str | None) -> None:
    """Write a run's report: one self-contained HTML page.

    \b
      halops report local -o report.html
    """
    from halops.cli.running import show_screen
    from halops.report.collect import collect
    from halops.report.page import render_report
    from halops.runstate import find_run

    where = open_place(store)
    run_id = find_run(where.store, run)
    if text:
        show_screen(where, run_id)
        return
    path = output or Path(f"{run_id}.html")
    path.write_text(render_report(collect(where.store, run_id)), encoding="utf-8")
    note("written; open it in any browser")
    click.echo(path)

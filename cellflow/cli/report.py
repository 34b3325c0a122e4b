"""The command that writes a report of a saved fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cellflow.cli import files, options
from cellflow.cli.front import Command


@click.command(cls=Command)
@options.fitted
@options.cells
@options.of("report", without=("path",))
@click.option(
    "--holdout",
    type=options.FILE,
    metavar="FILE.json",
    help="Rows that the command holdout or holdout-conditions has written.",
)
@options.output("FILE.html", files.check_new_file, "Page to write.")
def report(
    *, folder: Path, file: Path, keywords: dict[str, Any], holdout: Path | None, out: Path
) -> None:
    """Write a page on a saved fit and its cells, which opens in any browser.

    It shows the data, training, couplings, the hold-out if its rows are given, what other commands
    have written into FILE.h5ad, all settings, and what to cite.
    """
    from cellflow import reports

    fit = files.read_fit(folder)
    table = None if holdout is None else files.read_table(holdout, fit.course.unit)
    reports.report(files.read_cells(file, None), fit, out, holdout=table, **keywords)
    click.echo(f"saved to {out}")

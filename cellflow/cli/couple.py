"""``cellflow couple``."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import click

from cellflow.cli import options

#: As in `cellflow.tl.couple.COUPLINGS`, which is slow to load.
COUPLINGS = ("auto", "exact", "global", "entropic", "unbalanced")


@click.command()
@options.cells
@click.option(
    "--coupling",
    type=click.Choice(COUPLINGS),
    default="auto",
    show_default=True,
    help="auto is exact up to 4,000 cells, global beyond.",
)
@click.option(
    "--sigma",
    type=click.FloatRange(min=0.0, min_open=True),
    metavar="S",
    help="Diffusion of the entropic coupling, in data units per root of time.",
)
@click.option("--label-key", metavar="K", help="Column of obs: print how its labels change.")
@options.new_folder("New folder for the maps, tmaps_<start>_<end>.h5ad.")
@options.quiet
def couple(
    *,
    cells: options.Cells,
    coupling: str,
    sigma: float | None,
    label_key: str | None,
    out: Path,
    quiet: bool,
) -> None:
    """Match the cells of each time point with those of the next.

    Nothing is learned. Writes sparse maps that CellRank's RealTimeKernel.from_wot reads.
    """
    from cellflow import _checks, tl

    adata = cells.read()
    if label_key is not None:
        _checks.choice(label_key, [str(c) for c in adata.obs.columns], "label_key")
    done = tl.couple(adata, **cells.arguments(), coupling=coupling, sigma=sigma, progress=not quiet)
    done.save(out)
    click.echo(str(done))
    times = done.transitions.times
    for start, end in pairwise(times):
        if label_key is not None:
            click.echo(f"\n{label_key}, from {start:g} (rows) to {end:g}")
            click.echo(done.table(adata.obs[label_key], start, end).round(3).to_string())
    click.echo(f"saved to {out}")

"""``cellflow simulate``."""

from __future__ import annotations

from pathlib import Path

import click

from cellflow.cli import files, options


@click.command()
@click.argument("folder", type=options.FOLDER, metavar="DIR")
@click.option("--start", metavar="T", help="Time point whose cells to carry; the first by default.")
@click.option("--end", metavar="T", help="Time to carry them to; the last by default.")
@click.option(
    "--n-times",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    metavar="N",
    help="Evenly spaced times to write.",
)
@click.option(
    "--n-cells", type=options.POSITIVE, metavar="N", help="Draw so many; all of them by default."
)
@options.solver
@click.option("--seed", type=options.SEED, default=0, show_default=True, metavar="S")
@click.option("--half", is_flag=True, help="Write float16: half the size, three digits.")
@click.option(
    "--out",
    type=options.PATH,
    required=True,
    metavar="DIR.zarr",
    callback=files.check_folder,
    help="Folder to write; an interrupted one is gone on with.",
)
@options.quiet
def simulate(
    *,
    folder: Path,
    start: str | None,
    end: str | None,
    n_times: int,
    n_cells: int | None,
    solver: str,
    seed: int,
    half: bool,
    out: Path,
    quiet: bool,
) -> None:
    """Carry the cells of a saved fit through time, into a zarr store.

    States are written part by part, so that millions of cells need no more memory than
    thousands. After Ctrl-C the same command goes on where it stopped.
    """
    import numpy as np
    import torch

    from cellflow.fits import Fit

    saved = files.read_fit(folder)
    if not isinstance(saved, Fit):
        raise click.BadParameter(
            f"{str(folder)!r} is an ensemble, a fit is expected.", param_hint="DIR"
        )
    course = saved.course
    first = course.times[0] if start is None else files.read_time(start, course.unit, "--start")
    last = course.times[-1] if end is None else files.read_time(end, course.unit, "--end")
    known = {snapshot.time: snapshot for snapshot in course.snapshots}
    if first not in known:
        raise click.BadParameter(
            f"{first:g} is none of the fit's times: {', '.join(f'{t:g}' for t in known)}.",
            param_hint="'--start'",
        )
    if first == last:
        raise click.BadParameter(f"{last:g} is where the cells start.", param_hint="'--end'")
    x, rng = known[first].x, torch.Generator().manual_seed(seed)
    if n_cells is not None:
        x = x[torch.randperm(len(x), generator=rng)[:n_cells].to(x.device)]
    path = saved.simulate(
        x,
        np.linspace(first, last, n_times),
        solver=solver,
        generator=rng,
        store=out,
        store_dtype="float16" if half else None,
        progress=not quiet,
    )
    click.echo(f"{path.x.shape[1]} cells at {n_times} times, {course.unit} {first:g} to {last:g}")
    click.echo(f"saved to {out}: cellflow.simulate.open_trajectory reads it")
